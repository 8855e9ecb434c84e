//! Asks pkg-config where libmfa is.
use std::process::Command;

fn main() {
    let output = Command::new("pkg-config")
        .args(["--variable=libdir", "mfa"])
        .output()
        .expect("pkg-config could not be run");
    if !output.status.success() {
        panic!(
            "pkg-config does not know mfa: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let folder = String::from_utf8(output.stdout).expect("the path of libmfa is not UTF-8");
    println!("cargo:rustc-link-search=native={}", folder.trim());
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.trim());
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
}

//! Asks pkg-config where libmfa is, and says what to do if it does not know.
use std::env;
use std::process::{exit, Command};

fn main() {
    for variable in [
        "PKG_CONFIG",
        "PKG_CONFIG_PATH",
        "PKG_CONFIG_LIBDIR",
        "PKG_CONFIG_SYSROOT_DIR",
    ] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    // A variable, as flags would come quoted for a shell.
    let folder = pkg_config(&["--print-errors", "--variable=libdir", "mfa"]);
    // An empty one is a folder that the linker searches anyway.
    if !folder.is_empty() {
        println!("cargo:rustc-link-search=native={folder}");
    }
    println!("cargo:rustc-link-lib=mfa");
}

/// What pkg-config prints. Without that there is nothing to link with, so that it ends the build otherwise.
fn pkg_config(arguments: &[&str]) -> String {
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = match Command::new(&program).args(arguments).output() {
        Ok(output) => output,
        Err(error) => give_up(&format!(
            "cannot run {program}, which finds libmfa: {error}\n\
             Install it (Debian, Ubuntu: apt-get install pkg-config; macOS: brew install pkg-config)\n\
             or name another by the variable PKG_CONFIG."
        )),
    };
    if !output.status.success() {
        let path = env::var("PKG_CONFIG_PATH").unwrap_or_default();
        give_up(&format!(
            "{program} does not find libmfa:\n{}\n\
             Install it from the top of the clone, make install PREFIX=..., and have PKG_CONFIG_PATH, which is {path:?},\n\
             name the folder lib/pkgconfig of that prefix.",
            String::from_utf8_lossy(&output.stderr).trim()
        ));
    }
    match String::from_utf8(output.stdout) {
        Ok(said) => said.trim().into(),
        Err(error) => give_up(&format!("the folder of libmfa is not UTF-8: {error}")),
    }
}

fn give_up(message: &str) -> ! {
    eprintln!("{message}");
    exit(1)
}

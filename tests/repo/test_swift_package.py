"""What a Swift package demands of the sources: one target for all platforms, no script, no flags."""

import re
import sys

from support.emulated import objc_flags
from support.flags import WARNINGS, flags
from support.source_tree import ROOT, run
from support.tools import require_metal_emulator, require_tool

MANIFEST = (ROOT / "Package.swift").read_text(encoding="utf-8")
INCLUDES = flags("INCLUDES")
# A Swift package's own, which other builds do not have.
SWIFT_ONLY = {"Package.swift", "include/module.modulemap"}


def listed(key):
    [body] = re.findall(rf"{key}: \[(.*?)\]", MANIFEST, flags=re.DOTALL)
    return re.findall(r'"([^"]+)"', body)


def test_kernels_are_those_of_the_sources(tmp_path):
    written = tmp_path / "metal_sources.c"
    run(sys.executable, ROOT / "metal/embed.py", written)
    committed = ROOT / "swift/CMFA/metal_sources.c"
    assert committed.read_text() == written.read_text(), f"run metal/embed.py {committed.relative_to(ROOT)}"


def test_every_file_is_compiled_or_excluded():
    """Of any other, SwiftPM warns."""
    excluded, compiled = listed("exclude"), [*listed("sources"), "include"]
    assert not [name for name in excluded + compiled if not (ROOT / name).exists()]
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in tracked:
        hidden = any(part.startswith(".") for part in name.split("/"))
        known = any(name == top or name.startswith(f"{top}/") for top in excluded + compiled)
        assert not name or hidden or known or name in SWIFT_ONLY, f"{name} is for Package.swift to exclude"


def test_header_is_the_module():
    module = (ROOT / "include/module.modulemap").read_text(encoding="utf-8")
    assert (
        re.findall(r"module (\w+)", module)
        == ["CMFA"]
        == re.findall(r'\.target\(\s*name: "(CM\w+)"', MANIFEST)
    )
    assert re.findall(r'header "(.*)"', module) == ["mfa.h"]
    assert "unsafeFlags" not in MANIFEST  # with these no other package may depend on this one


def test_platforms():
    assert "platforms: [.macOS(.v14), .iOS(.v17), .tvOS(.v17), .visionOS(.v1)]" in MANIFEST
    assert MANIFEST.startswith("// swift-tools-version:5.10\n")


def test_elsewhere_the_stub_stands_for_metal(tmp_path):
    """As SwiftPM compiles on Linux: every source, with no flag but these."""
    clang = require_tool("clang-19", "apt-get install clang-19")
    sources = [*sorted((ROOT / "src/metal").glob("*.[cm]")), ROOT / "swift/CMFA/metal_sources.c"]
    run(
        clang,
        "-DSWIFT_PACKAGE=1",
        "-std=gnu11",
        "-fblocks",
        *INCLUDES,
        "-c",
        *sources,
        cwd=tmp_path_in(tmp_path),
    )
    defined = run("nm", "--defined-only", *sorted(tmp_path.glob("*.o")))
    assert len(re.findall(r"\bmfai_metal_backend$", defined, flags=re.MULTILINE)) == 1
    assert "mfai_metal_sources" not in defined
    assert "mfai_metal_device_open" not in defined


def tmp_path_in(folder):
    """A folder from which the project's relative include folders are found."""
    for name in ("include", "src", "metal"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_metal_s_sources_compile_with_references_counted_by_the_compiler():
    """SwiftPM has no safe flag against ARC. The runtime here has none, so that this goes no further."""
    clang = require_metal_emulator()
    counted = ["-fobjc-arc", "-fobjc-runtime=gnustep-2.0", "-Wno-unguarded-availability-new"]
    options = [flag for flag in objc_flags() if not flag.startswith("-fobjc-runtime")]
    for source in sorted((ROOT / "src/metal").glob("*.m")):
        said = run(
            "sh",
            "-c",
            '"$@" 2>&1 || true',
            "sh",
            clang,
            *options,
            *counted,
            "-std=gnu11",
            *WARNINGS,
            *INCLUDES,
            "-fsyntax-only",
            source,
            cwd=ROOT,
        )
        wrong = [line for line in said.splitlines() if re.search(r": (error|warning): ", line)]
        # GCC's header has a function that takes objects apart.
        assert [line for line in wrong if "/objc/runtime.h:" not in line] == [], source.name

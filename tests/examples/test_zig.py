"""The Zig example, over an installed library and over one that Zig compiles for another machine."""

import os
import sys

import pytest
from support.examples import TIMED, assert_known, printed, said
from support.source_tree import PKG_CONFIG, ROOT, run
from support.tools import require_module, require_tool


def without_notes(text):
    """Zig says a word about its cache where its own commands are compiled without optimisation."""
    return "".join(line for line in text.splitlines(True) if not line.startswith("debug: "))


@pytest.fixture(scope="module")
def zig(tmp_path_factory):
    """Settings with which the README's commands find Zig, and a cache."""
    require_module("ziglang", "pip install ziglang")
    require_tool(*PKG_CONFIG)
    folder = tmp_path_factory.mktemp("zig")
    program = folder / "bin/zig"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang "$@"\n')
    program.chmod(0o755)
    return {
        "PATH": os.pathsep.join([str(program.parent), os.environ["PATH"]]),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "cache"),
        "ZIG_GLOBAL_CACHE_DIR": str(folder / "global"),
        # Zig's translator of C and its builder: a minute to compile optimised, ten seconds without.
        "ZIG_DEBUG_CMD": "1",
    }


def test_known_values_times_and_refusals(tmp_path, zig):
    assert_known(without_notes(printed("zig", tmp_path, **zig)))
    assert TIMED.fullmatch(without_notes(printed("zig", tmp_path, which=1, **zig)))
    said("zig", tmp_path, "zig build test", **zig)


def test_cross_compiles_the_library(tmp_path, zig):
    emulator = require_tool("qemu-aarch64", "apt-get install qemu-user")
    libc = "/usr/aarch64-linux-gnu"
    if not os.path.isdir(libc):
        pytest.skip("there is no C library of arm64: apt-get install libc6-dev-arm64-cross")
    # Without pkg-config: what is compiled is not the installed library.
    source = f"zig build -Dsource='{ROOT}' --prefix out"
    said("zig", tmp_path, f"{source} -Dtarget=aarch64-linux-gnu", **zig, PKG_CONFIG="false")
    assert_known(run(emulator, "-L", libc, tmp_path / "zig/out/bin/known_values"))
    said("zig", tmp_path, f"{source} -Dtarget=aarch64-macos", **zig, PKG_CONFIG="false")
    assert (tmp_path / "zig/out/bin/known_values").read_bytes()[:4] == b"\xcf\xfa\xed\xfe"

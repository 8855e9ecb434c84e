"""What is built: hardened, without the builder's folders, and only with IEEE arithmetic."""

import os
import re
import sys

import pytest
from support.elf import assert_hardened, assert_no_trace_of_the_build, run_paths
from support.flags import CORE, INCLUDES
from support.source_tree import ROOT, make, run
from support.tools import require_tool

COMPILERS = {
    "gcc": ("gcc", "apt-get install gcc libc6-dev"),
    "clang": ("clang-19", "apt-get install clang-19"),
}
REFUSED = {
    "gcc": [
        "-ffast-math",
        "-Ofast",
        "-ffinite-math-only",
        "-funsafe-math-optimizations",
        "-freciprocal-math",
        "-fno-signed-zeros",
    ],
    "clang": ["-ffast-math", "-ffinite-math-only"],
}
# Files whose numbers depend on it: an instance of the kernels, what plans calls, what checks arguments.
SOURCES = ["src/cpu/isa_scalar.c", "src/cpu/forward.c", "src/cpu/backward.c", "src/core/problem.c"]


@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_library_is_hardened():
    make("lib")
    library = ROOT / "build/release/libmfa.so"
    assert_hardened(library)
    assert_no_trace_of_the_build(library, ROOT)
    assert run_paths(library) == []


@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_library_has_no_thread_local_storage():
    """In a library that is dlopened, a thread's first access to it ends the process where memory is short."""
    make("lib")
    segments = run(
        require_tool("readelf", "apt-get install binutils"), "-lW", ROOT / "build/release/libmfa.so"
    )
    assert not re.search(r"^ +TLS ", segments, re.MULTILINE)


@pytest.mark.parametrize(
    ("compiler", "flag"), [(compiler, flag) for compiler in REFUSED for flag in REFUSED[compiler]]
)
@pytest.mark.parametrize("source", SOURCES)
def test_build_that_breaks_arithmetic_is_refused(compiler, flag, source):
    program = require_tool(*COMPILERS[compiler])
    if compiler == "gcc" and "__clang__" in run(program, "-dM", "-E", "-x", "c", os.devnull):
        pytest.skip("gcc is clang by another name here, which has no macro for some of these flags")
    plain = [program, "-O1", *CORE, *INCLUDES, "-fsyntax-only"]
    run(*plain, ROOT / source)
    with pytest.raises(AssertionError, match="mfa needs IEEE arithmetic"):
        run(*plain, flag, ROOT / source)


@pytest.mark.parametrize("flag", ["-fassociative-math", "-freciprocal-math", "-fno-signed-zeros"])
def test_clang_is_told_to_keep_arithmetic(flag, tmp_path):
    """It has no macro that would say of these flags that they are there."""
    program = require_tool(*COMPILERS["clang"])
    text = tmp_path / "scalar.ll"
    command = [program, "-O1", *CORE, *INCLUDES, flag, "-S", "-emit-llvm", "-o", text]
    run(*command, ROOT / "src/cpu/isa_scalar.c")
    instructions = re.findall(r"= (f(?:add|sub|mul|div) .*)", text.read_text())
    assert instructions
    assert not [line for line in instructions if re.match(r"\w+ (?:fast|reassoc|arcp|nsz|nnan|ninf)", line)]

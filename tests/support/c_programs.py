"""C unit tests, `*_test.c` in folders of tests: plain, under the sanitizers, for arm64 under an emulator."""

import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.flags import CORE, INCLUDES, flags
from support.once import made_once
from support.source_tree import FUZZ_BUILD, ROOT, make
from support.tools import require_fuzzing_clang, require_tool

# Lines are all that reports name, and more about variables would double the time. Plain is hardened as a
# release is: checked copies bring inline functions of headers into the regions of other instruction sets.
SANITIZERS = {
    "plain": [*flags("RELEASE"), *flags("HARDENING")],
    "address+undefined": ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-g1", "-fsanitize=thread"],
}
FLAGS = [*CORE, *INCLUDES, f"-I{ROOT / 'tests/support'}"]
# Kernels are large: without checks that AddressSanitizer makes too they compile in two thirds of the time.
KERNELS = ["-fno-sanitize=null,object-size,pointer-overflow"]


def each_program(test_file, concurrent):
    """Parametrizes by sanitizer and program beside `test_file`; under `thread` only those that can race."""
    programs = sorted(Path(test_file).parent.glob("*_test.c"))
    names = {path.stem.removesuffix("_test") for path in programs}
    assert names.issuperset(concurrent), f"{sorted(concurrent)} are not all among {sorted(names)}"
    cases = [
        pytest.param(sanitizer, path, id=f"{sanitizer}-{path.stem.removesuffix('_test')}")
        for sanitizer in SANITIZERS
        for path in programs
        if sanitizer != "thread" or path.stem.removesuffix("_test") in concurrent
    ]
    return pytest.mark.parametrize(("sanitizer", "program"), cases)


def _compile_library(compiler, options, folder):
    sources = sorted((ROOT / "src").glob("*/*.c"))
    commands = [
        [
            *(compiler, *FLAGS, *options, *(KERNELS if path.stem.startswith("isa_") else [])),
            *("-c", path, "-o", folder / f"{path.parent.name}_{path.stem}.o"),
        ]
        for path in sources
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))


class Build:
    """The library's objects, and programs linked with them."""

    def __init__(self, compiler, options, objects):
        self.command = [compiler, *FLAGS, *options]
        self.objects = objects

    @classmethod
    def compiled(cls, tmp_path_factory, name, compiler, options):
        """The library is compiled as the programs are, once."""
        compile_library = functools.partial(_compile_library, compiler, options)
        folder = made_once(tmp_path_factory, f"objects-{name}", compile_library)
        return cls(compiler, options, sorted(folder.glob("*.o")))

    @classmethod
    def made(cls, compiler, options, folder, *arguments):
        """The library is one that make leaves in a folder of build/, for other tests too."""
        make(*arguments)
        sources = sorted((ROOT / "src").glob("*/*.c"))
        return cls(
            compiler,
            options,
            [ROOT / "build" / folder / path.relative_to(ROOT).with_suffix(".o") for path in sources],
        )

    def link(self, source, binary, *more):
        subprocess.run(
            [*self.command, *more, source, *self.objects, "-o", binary, "-lm"],
            check=True,
        )


def run(*command):
    """What a program printed whose checks all held."""
    # The thread sanitizer gives up on threads after fork unless told not to; the pool's fork test needs them.
    environment = os.environ | {"TSAN_OPTIONS": "die_after_fork=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    for name in ("MFA_BACKEND", "MFA_CPU_ISA", "MFA_NUM_THREADS"):
        environment.pop(name, None)
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(" 0 failed\n")
    return result.stdout


def build_here(tmp_path_factory, sanitizer):
    options = SANITIZERS[sanitizer]
    if sys.platform != "linux":  # what make builds has Metal in it, and no clang there has libFuzzer
        compiler = require_tool(os.environ.get("CC", "cc"), "xcode-select --install")
        return Build.compiled(tmp_path_factory, sanitizer, compiler, options)
    if sanitizer == "plain":
        compiler = require_tool(os.environ.get("CC", "cc"), "apt-get install gcc")
        return Build.made(compiler, options, "release", "METAL=none", "lib")
    # gcc takes twice as long to instrument the kernels, and its AddressSanitizer hangs in a forked child.
    compiler = require_fuzzing_clang()
    if sanitizer == "address+undefined":
        return Build.made(compiler, options, "fuzz", *FUZZ_BUILD, "build/fuzz/libmfa.a")
    return Build.compiled(tmp_path_factory, sanitizer, compiler, options)


def run_here(tmp_path_factory, sanitizer, source, binary):
    build_here(tmp_path_factory, sanitizer).link(source, binary)
    return run(binary)


def run_on_arm(tmp_path_factory, processor, source, binary):
    compiler = require_tool("aarch64-linux-gnu-gcc", "apt-get install gcc-aarch64-linux-gnu")
    emulator = require_tool("qemu-aarch64", "apt-get install qemu-user")
    Build.compiled(tmp_path_factory, "arm64", compiler, ["-O2"]).link(source, binary, "-static")
    return run(emulator, "-cpu", processor, binary)

"""The C unit tests of tests/c: plain, under the sanitizers, and for arm64 under an emulator."""

import functools
import os
import pathlib
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.flags import CORE, INCLUDES
from support.once import made_once
from support.tools import require_tool

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = sorted(path.stem.removesuffix("_test") for path in (ROOT / "tests/c").glob("*_test.c"))
SANITIZERS = {
    "plain": ["-O2"],
    "address+undefined": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],
}
# What cannot race is not run under the thread sanitizer.
CONCURRENT = {"backward", "holes", "concurrency", "threads", "context"}
FLAGS = [*CORE, *INCLUDES, f"-I{ROOT / 'tests/c'}"]


def compile_library(compiler, flags, folder):
    sources = sorted((ROOT / "src").glob("*/*.c"))
    commands = [
        [compiler, *FLAGS, *flags, "-c", path, "-o", folder / f"{path.parent.name}_{path.stem}.o"]
        for path in sources
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))


def objects_in(folder):
    return sorted(folder.glob("*.o"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A function from a sanitizer's name to the compiler and the library's objects built with it."""
    compiler = require_tool(os.environ.get("CC", "cc"), "apt-get install gcc")

    def build(sanitizer):
        compile_objects = functools.partial(compile_library, compiler, SANITIZERS[sanitizer])
        return compiler, objects_in(made_once(tmp_path_factory, f"objects-{sanitizer}", compile_objects))

    return build


@pytest.fixture(scope="session")
def compiled_for_arm(tmp_path_factory):
    """Cross compiler, emulator and the library's objects for arm64."""
    compiler = require_tool("aarch64-linux-gnu-gcc", "apt-get install gcc-aarch64-linux-gnu")
    emulator = require_tool("qemu-aarch64", "apt-get install qemu-user")
    compile_objects = functools.partial(compile_library, compiler, ["-O2"])
    return compiler, emulator, objects_in(made_once(tmp_path_factory, "objects-arm64", compile_objects))


def run(command):
    # The thread sanitizer gives up on threads after fork unless told not to; the pool's fork test needs them.
    environment = os.environ | {"TSAN_OPTIONS": "die_after_fork=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    for name in ("MFA_BACKEND", "MFA_CPU_ISA", "MFA_NUM_THREADS"):
        environment.pop(name, None)
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.endswith(" 0 failed\n")
    return result.stdout


CASES = [
    (sanitizer, program)
    for sanitizer in SANITIZERS
    for program in PROGRAMS
    if sanitizer != "thread" or program in CONCURRENT
]


@pytest.mark.parametrize(("sanitizer", "program"), CASES)
def test_c_program(compiled, tmp_path, sanitizer, program):
    compiler, objects = compiled(sanitizer)
    source = ROOT / f"tests/c/{program}_test.c"
    binary = tmp_path / program
    command = [compiler, *FLAGS, *SANITIZERS[sanitizer], source, *objects, "-o", binary, "-lm"]
    subprocess.run(command, check=True)
    run([binary])


@pytest.mark.parametrize(("processor", "instance"), [("max", "neonbf16"), ("cortex-a72", "neon")])
@pytest.mark.parametrize("program", ["precision", "flat", "half", "backward", "dropout"])
def test_arm_program(compiled_for_arm, tmp_path, processor, instance, program):
    compiler, emulator, objects = compiled_for_arm
    source, binary = ROOT / f"tests/c/{program}_test.c", tmp_path / program
    command = [compiler, *FLAGS, "-O2", "-static", source, *objects, "-o", binary, "-lm"]
    subprocess.run(command, check=True)
    output = run([emulator, "-cpu", processor, binary])
    assert program not in ("precision", "backward") or f"instance {instance}\n" in output

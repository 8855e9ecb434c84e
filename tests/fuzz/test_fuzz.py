"""The fuzz targets: over their corpus, a while beyond it, and with faults planted, which they must find."""

import os
import re
import subprocess

import pytest
from support.source_tree import FUZZ_BUILD, ROOT, make, make_env, run
from support.tools import require_fuzzing_clang

FOLDER = ROOT / "tests/fuzz"
TARGETS = sorted(path.stem.removesuffix("_fuzz") for path in FOLDER.glob("*_fuzz.c"))
# Inputs of each target, some seconds' worth, the same under any load; `make fuzz SECONDS=` for more.
RUNS = {"flat": 8000, "handles": 16000, "hostile": 10000, "quantized": 8000, "values": 500, "versions": 10000}
PLANTED = [
    ("values", "wrong value", r"out\[.*\] is .*, expected"),
    ("values", "one thread differs", "has other bits with 1 thread than with 3"),
    ("values", "write past the end", "heap-buffer-overflow"),
    ("values", "write to an operand", "wrote to memory of key"),
    ("hostile", "accept everything", "is accepted"),
    ("hostile", "write on failure", "wrote to memory of out"),
    ("hostile", "stale message", "and no message"),
    ("flat", "refuse what is right", "status 0 of a call that is wrong"),
    ("quantized", "refuse what is right", "status 0 of a call that is wrong"),
    ("handles", "write beyond a struct", "heap-buffer-overflow"),
    ("versions", "take any version", "status 0, expected"),
]


@pytest.fixture(scope="session")
def program():
    """A function from a target's name to its program."""
    require_fuzzing_clang()
    make(*FUZZ_BUILD, "fuzz-programs")
    return lambda target: ROOT / "build/fuzz" / target


def fuzz(program, target, *arguments, fault=None):
    """What a target says; a failure shows the input that failed, in Base64."""
    environment = {name: value for name, value in make_env().items() if not name.startswith("MFA_")}
    if fault:
        environment["MFA_FUZZ_PLANT"] = fault
    command = [program(target), *arguments, f"-artifact_prefix={os.devnull}"]
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        timeout=300,
        env=environment,
        encoding="utf-8",
        errors="replace",
    )
    return done.returncode, done.stderr[-8000:]


@pytest.mark.parametrize("target", TARGETS)
def test_target_finds_nothing(program, tmp_path, target):
    corpus = FOLDER / "corpus" / target
    assert list(corpus.iterdir())
    limits = [
        "-max_len=256",
        "-len_control=0",
        "-seed=1",
        f"-runs={RUNS[target]}",
        "-print_final_stats=1",
    ]
    code, said = fuzz(program, target, *limits, tmp_path, corpus)
    assert code == 0, said
    assert int(re.search(r"number_of_executed_units: (\d+)", said)[1]) >= RUNS[target]
    assert RUNS[target] > 2 * len(list(corpus.iterdir()))


@pytest.mark.parametrize(("target", "fault", "expected"), PLANTED)
def test_target_finds_a_planted_fault(program, target, fault, expected):
    code, said = fuzz(program, target, "-runs=0", FOLDER / "corpus" / target, fault=fault)
    assert code != 0
    assert re.search(expected, said), said


def test_stress_with_forks_under_address_sanitizer(program):
    """As tests/cpu/test_c.py runs it, but gcc's AddressSanitizer hangs in a forked child."""
    said = run(program("stress"), 3, env=make_env())
    assert " 0 failed\n" in said
    assert ", 0 forks" not in said


def test_every_function_has_a_target():
    header = (ROOT / "include/mfa.h").read_text(encoding="utf-8")
    functions = set(re.findall(r"^MFA_API [^;(]*?\b(mfa_\w+)\(", header, flags=re.MULTILINE))
    assert len(functions) > 20
    called = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.c"))
    assert not {name for name in functions if f"{name}(" not in called}

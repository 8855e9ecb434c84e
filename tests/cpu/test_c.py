"""The C unit tests of src/cpu."""

from pathlib import Path

import pytest
from support.c_programs import each_program, run_here, run_on_arm


@each_program(
    __file__,
    concurrent={
        "append",
        "backward",
        "cancellation",
        "concurrency",
        "quantise",
        "sequences",
        "signals",
        "stress",
        "threads",
        "workspace",
    },
)
def test_program(tmp_path_factory, tmp_path, sanitizer, program):
    run_here(tmp_path_factory, sanitizer, program, tmp_path / "program")


# Those that take a minute under emulation run on one processor, which has the kernels of the other, too.
ON_ARM = ["precision", "half", "backward", "dropout", "float_mode", "append", "scoring", "int8"]
LONG_ON_ARM = ["sequences", "quantise"]


@pytest.mark.parametrize(
    ("processor", "instance", "program"),
    [
        *(("max", "neoni8mm", program) for program in (*ON_ARM, *LONG_ON_ARM)),
        *(("cortex-a72", "neon", program) for program in ON_ARM),
    ],
)
def test_program_on_arm(tmp_path_factory, tmp_path, processor, instance, program):
    source = Path(__file__).with_name(f"{program}_test.c")
    said = run_on_arm(tmp_path_factory, processor, source, tmp_path / "program")
    assert program not in ("precision", "backward") or f"instance {instance}\n" in said

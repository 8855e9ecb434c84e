"""The C unit tests of src/core and of the rules that backends share."""

from pathlib import Path

import pytest
from support.c_programs import each_program, run_here, run_on_arm


@each_program(__file__, concurrent={"context"})
def test_program(tmp_path_factory, tmp_path, sanitizer, program):
    run_here(tmp_path_factory, sanitizer, program, tmp_path / "program")


@pytest.mark.parametrize("processor", ["max", "cortex-a72"])
def test_flat_calls_on_arm(tmp_path_factory, tmp_path, processor):
    program = Path(__file__).with_name("flat_test.c")
    run_on_arm(tmp_path_factory, processor, program, tmp_path / "program")

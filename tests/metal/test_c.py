"""The C unit tests of what src/metal has of plain C."""

from support.c_programs import each_program, run_here


@each_program(__file__, concurrent=())
def test_program(tmp_path_factory, tmp_path, sanitizer, program):
    run_here(tmp_path_factory, sanitizer, program, tmp_path / "program")

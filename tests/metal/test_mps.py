"""Tensors on "mps", by their Metal buffers, in PyTorch's own stream: mps_cases.py with an emulated device."""

import ast
import json
import os

import pytest
from support.emulated import EMULATOR, environment, objc_flags
from support.flags import WARNINGS
from support.source_tree import ROOT, run

CASES = ROOT / "tests/metal/mps_cases.py"


def names():
    [cases] = [
        node.value
        for node in ast.parse(CASES.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CASES"
    ]
    return [name.id for name in cases.elts]


@pytest.fixture(scope="module")
def failures(library, tmp_path_factory):
    stand_in = tmp_path_factory.mktemp("mps") / "stand_in.so"
    libraries = [f"-L{library}", "-lMetal", "-lgnustep-base", "-lobjc"]
    flags = [*objc_flags(), "-O1", *WARNINGS, "-shared", "-fPIC"]
    run("clang-19", *flags, ROOT / "tests/metal/mps_stand_in.m", "-o", stand_in, *libraries, cwd=ROOT)
    settings = environment(METAL_EMULATOR_FILL="unwritten") | {"PYTHONPATH": str(ROOT / "tests")}
    python = os.environ.get("METAL_EMULATOR_PYTHON") or settings["METAL_EMULATOR_PYTHON"]
    said = run(EMULATOR / "run", python, CASES, stand_in, env=settings, cwd=ROOT)
    [failures] = [line for line in said.splitlines() if line.startswith("{")]
    return json.loads(failures)


@pytest.mark.parametrize("case", names())
def test_case(failures, case):
    assert case not in failures, failures[case]

"""Diffusers' ring and Ulysses attention over mfa, of a sequence of which two processes have the halves."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from support.diffusers_parallel import CASES, PROCESSES, operands, outcome
from support.source_tree import ROOT

CALLS = {"ring": 2, "ring, scale": 2, "ulysses": 1}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    command = [sys.executable, "-W", "ignore", "-m", "support.diffusers_parallel"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    processes = [
        subprocess.Popen([*command, str(rank), folder / "store", folder], env=env)
        for rank in range(PROCESSES)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0] * PROCESSES
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def attention(query, key, value, scale=None):
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


@pytest.mark.parametrize("rank", range(PROCESSES))
@pytest.mark.parametrize("case", CASES)
def test_results_and_gradients_are_those_of_one_process(found, case, rank):
    results, calls = found[rank][case]
    expected = outcome(lambda *x: attention(*x, **CASES[case][1]), *(x.double() for x in operands()))
    for actual, exact in zip(results, expected, strict=True):
        torch.testing.assert_close(actual.double(), exact.chunk(PROCESSES, 1)[rank], atol=1e-5, rtol=1e-5)
    assert calls == CALLS[case]

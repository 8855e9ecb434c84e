"""The examples that need PyTorch run, and find their own answers right: they exit with an error otherwise."""

import os
import re
import sys

from support.source_tree import ROOT, run

EXAMPLES = ROOT / "examples/python"


def printed(name, *arguments):
    # Wide, so that no line is broken.
    return run(sys.executable, EXAMPLES / name, *arguments, env={**os.environ, "COLUMNS": "200"})


def test_train_charlm_has_the_losses_of_torch():
    sizes = ("--steps=12", "--context=40", "--batch=2", "--width=32", "--heads=2", "--layers=1")
    said = printed("train_charlm.py", *sizes)
    rows = re.findall(r"(torch|mfa) +│ (\S+) +│ +\d+ ms +│ (\d+) MiB", said)
    assert [name for name, _, _ in rows] == ["torch", "mfa"]
    assert abs(float(rows[0][1]) - float(rows[1][1])) <= 1e-3
    assert said.count("*") == 12
    assert float(re.search(r"Largest difference of two losses: (\S+)", said)[1]) < 1e-3


def test_sdpa_replacement_is_as_accurate_and_replaces():
    said = printed("pytorch_sdpa_replacement.py", "--tokens=40", "--repeats=1")
    assert said.count(" ms ") == 2 * 6
    assert "1 call by mfa, 0 by PyTorch" in said

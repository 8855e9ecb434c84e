"""The attention tests on the emulated Metal device: a process for each file, which uses all processors."""

import os
import re
import subprocess
import sys

import pytest
from support.emulated import EMULATOR, OF_BACKENDS, OF_DEFAULT, environment
from support.source_tree import ROOT

DEVICE = {"METAL_EMULATOR_ORDER": "random", "METAL_EMULATOR_FILL": "unwritten"}


def run_pytest(*arguments, **settings):
    """What it printed."""
    command = [EMULATOR / "run", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    inherited = {name: os.environ[name] for name in ("MFA_REQUIRE_ALL",) if name in os.environ}
    env = environment(**DEVICE, **inherited, MFA_HYPOTHESIS_PROFILE="emulated", **settings)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200, env=env)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    return done.stdout


def run_file(name, **settings):
    workers = len(os.sched_getaffinity(0))
    assert "passed" in run_pytest("-n", str(workers), f"tests/{name}", **settings)


def test_no_file_is_left_out(library):
    collected = run_pytest("--collect-only", "tests", MFA_TEST_BACKENDS="metal")
    assert set(re.findall(r"^tests/([\w/]+\.py)::", collected, re.MULTILINE)) == set(OF_BACKENDS)


@pytest.mark.parametrize("name", OF_BACKENDS)
def test_attention(library, name):
    run_file(name, MFA_TEST_BACKENDS="metal")


@pytest.mark.parametrize("name", OF_DEFAULT)
def test_default_backend(library, name):
    run_file(name, MFA_BACKEND="metal")

"""The attention tests on the emulated Metal device: a process for each file, which uses all processors."""

import os
import subprocess
import sys

import pytest
from emulated import EMULATOR, environment
from source_tree import ROOT

# Tests that are asked of each backend, here of this one.
OF_BACKENDS = (
    *("accuracy", "backward", "backward_laws", "backward_memory", "backward_nonfinite", "determinism"),
    *("dropout", "edges", "forward", "isa", "laws", "masks", "memory", "peer_bugs"),
)
# Tests that use whatever backend is the default.
OF_DEFAULT = ("arrays", "buffers_contexts", "errors", "flash_attn", "gradients", "leaks", "sdpa")


def run_tests(name, **settings):
    command = [EMULATOR / "run", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-n", str(len(os.sched_getaffinity(0))), f"tests/test_{name}.py"]
    settings = {"METAL_EMULATOR_ORDER": "random", "METAL_EMULATOR_FILL": "unwritten", **settings}
    profile = {"MFA_HYPOTHESIS_PROFILE": "emulated"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        env=environment(**settings, **profile),
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]


@pytest.mark.parametrize("name", OF_BACKENDS)
def test_attention(library, name):
    run_tests(name, MFA_TEST_BACKENDS="metal")


@pytest.mark.parametrize("name", OF_DEFAULT)
def test_default_backend(library, name):
    run_tests(name, MFA_BACKEND="metal")

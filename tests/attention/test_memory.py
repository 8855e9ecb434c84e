"""Memory beyond inputs and outputs does not grow with Nq * Nkv, and indices have 64 bits."""

import sys

import numpy as np
import pytest
from support import checks
from support.probe import run_probe

import mfa

MEGABYTE = 2**20
LENGTH = 65_536

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="needs memory that is not counted until it is touched"
)


@pytest.mark.hardware
def test_full_attention_over_65536_keys():
    """One head, float32, D = 64, on the best backend of this machine: about a tera-operation."""
    rows = [0, 1, 32_767, LENGTH - 1]
    probe = run_probe("extra_memory", length=LENGTH, head_dim=64, dtype="float32", window=(-1, -1), rows=rows)
    assert probe["extra"] < 64 * MEGABYTE


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_windowed_attention_over_65536_keys(backend, dtype):
    probe = run_probe(
        "extra_memory",
        length=LENGTH,
        head_dim=64,
        dtype=dtype,
        window=(50, 0),
        rows=[0, 49, 50, 51, 32_767, LENGTH - 1],
        **backend.options,
    )
    # Of what lies on Linux's pages of 4 KB, the emulated device, whose pages have 16, may need a copy.
    copies = 4 * LENGTH * 64 * np.dtype(dtype).itemsize if backend.is_emulated else 0
    assert probe["extra"] < 64 * MEGABYTE + copies


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_planned_workspace_does_not_grow_with_the_scores(context, rng, dtype, backward):
    """Four times the keys and queries, sixteen times the scores."""
    sizes = []
    for length in (2048, 8192):
        arrays = checks.operands(
            rng, heads=2, query_length=length, key_length=length, head_dim=64, dtype=dtype
        )
        sizes.append(mfa.plan(*arrays, backward=backward, context=context).workspace_bytes)
    assert sizes[1] <= 4 * sizes[0] + MEGABYTE
    assert sizes[1] < 2 * 8192 * 8192 * 4 / 8


@linux
@pytest.mark.hardware  # its pages of 16 KB wrap what pages of 4 KB make the emulated device copy
@pytest.mark.parametrize("probe", ["over_two_to_the_31_keys", "batches_two_to_the_31_elements_apart"])
def test_tensor_over_two_to_the_31_elements(backend, probe):
    assert run_probe(probe, **backend.options)["peak"] < 1024 * MEGABYTE

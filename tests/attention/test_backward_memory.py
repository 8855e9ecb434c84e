"""What a backward call takes beside its operands does not grow with Nq * Nkv."""

import sys

import numpy as np
import pytest
from support.probe import run_probe

MEGABYTE = 2**20
LENGTH, HEAD_DIM = 32_768, 64


@pytest.mark.skipif(sys.platform == "win32", reason="needs peak memory")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_windowed_gradients_over_32768_keys(backend, dtype):
    """Three gradients are 24 MiB; the scores would be 4 GiB, and one bit for each of them 128 MiB."""
    probe = run_probe(
        "extra_memory_backward",
        length=LENGTH,
        head_dim=HEAD_DIM,
        dtype=dtype,
        window=50,
        keys=[50, 8191, 8192, 16_384, LENGTH - 51],
        **backend.options,
    )
    # As in test_memory.py: copies of eight operands.
    copies = 8 * LENGTH * HEAD_DIM * np.dtype(dtype).itemsize if backend.is_emulated else 0
    assert probe["extra"] < (24 + 64) * MEGABYTE + copies

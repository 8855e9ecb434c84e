"""Codes under a block mask: what is hidden is not read, and the rest is as under a dense mask."""

import numpy as np
import pytest
from support import checks, quantizing

import mfa

BATCH, HEADS, KV_HEADS, DIM = 2, 4, 2, 40
KEYS, BLOCK = 200, 32
HIDDEN = 3  # no row sees this block of keys
ROWS = pytest.mark.parametrize("rows", [3, 90], ids=["few rows", "many rows"])
SCALED = pytest.mark.parametrize("scaled", [(1, 0), (0, 1), (32, 0), (1, 32)], ids=str)


def operands(rng, rows, scaled, precision="int8"):
    query = rng.standard_normal((BATCH, rows, HEADS, DIM), dtype=np.float32)
    tensors = (
        quantizing.quantize(
            rng.standard_normal((BATCH, KEYS, KV_HEADS, DIM)), precision, rows=scaled[0], columns=scaled[1]
        )
        for _ in range(2)
    )
    return query, *tensors


def masks(rng, rows):
    """A block mask of which some blocks are partial, and the bool array that it stands for."""
    seen = rng.random((rows, KEYS)) < 0.7
    seen[:, HIDDEN * BLOCK : (HIDDEN + 1) * BLOCK] = False
    seen[:, 5 * BLOCK : 6 * BLOCK] = True
    block_mask = mfa.create_block_mask(
        lambda b, h, q, k: seen[q, k], None, None, rows, KEYS, BLOCK_SIZE=BLOCK
    )
    return block_mask, seen


def spoil(tensor):
    """Other codes in the hidden block; twice gives back what was there."""
    tensor.data[:, HIDDEN * BLOCK : (HIDDEN + 1) * BLOCK] ^= 0x55


@ROWS
@SCALED
@pytest.mark.parametrize("precision", ["int8", "uint4"])
def test_equals_the_oracle(context, rng, rows, scaled, precision):
    query, key, value = operands(rng, rows, scaled, precision)
    block_mask, seen = masks(rng, rows)
    result = mfa.attention(query, key, value, block_mask=block_mask, context=context, return_lse=True)
    for tensor in (key, value):
        spoil(tensor)
    again = mfa.attention(query, key, value, block_mask=block_mask, context=context, return_lse=True)
    assert all(np.array_equal(a, b) for a, b in zip(result, again, strict=True))
    for tensor in (key, value):
        spoil(tensor)
    checks.assert_matches(result, quantizing.expected(query, key, value, mask=seen))


@ROWS
@SCALED
def test_products_of_integers_are_near(context, rng, rows, scaled):
    query, key, value = operands(rng, rows, scaled)
    block_mask, seen = masks(rng, rows)
    options = {"context": context, "compute_mode": "int8"}
    found = mfa.attention(query, key, value, block_mask=block_mask, **options)
    exact = mfa.attention(query, key.dequantize(), value.dequantize(), mask=seen, context=context)
    assert np.linalg.norm(found - exact) <= 1.5e-2 * np.linalg.norm(exact)


@SCALED
def test_gradients_are_those_of_the_dense_mask(context, rng, scaled):
    query, key, value = operands(rng, 90, scaled)
    block_mask, seen = masks(rng, 90)
    dout = rng.standard_normal(query.shape, dtype=np.float32)
    floats = key.dequantize(), value.dequantize()
    out, lse = mfa.attention(query, *floats, mask=seen, return_lse=True, context=context)
    expected = mfa.attention_backward(dout, query, *floats, out, lse, mask=seen, context=context)
    found = mfa.attention_backward(dout, query, key, value, out, lse, block_mask=block_mask, context=context)
    for name in ("dq", "dk", "dv"):
        a, b = getattr(found, name), getattr(expected, name)
        assert np.allclose(a, b, rtol=1e-4, atol=1e-5), name
    assert np.all(found.dk[:, HIDDEN * BLOCK : (HIDDEN + 1) * BLOCK] == 0)

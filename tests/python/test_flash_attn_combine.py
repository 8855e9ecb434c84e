"""mfa.flash_attn_combine is FlashAttention-3's interface."""

import numpy as np
import pytest
import torch
from support import checks, oracle

import mfa


@pytest.fixture
def parts(rng):
    """Attention of 9 rows to parts of 60 keys, which some rows do not see, and to all of them."""
    q, k, v = checks.operands(rng, batch=2, heads=4, kv_heads=2, query_length=9, key_length=60, value_dim=8)
    seen = rng.random((9, 60)) < 0.7
    seen[:3, :20] = seen[5] = False
    pieces = [slice(0, 20), slice(20, 21), slice(21, 60)]
    results = [
        mfa.attention(q, k[:, keys], v[:, keys], mask=seen[:, keys], return_lse=True) for keys in pieces
    ]
    out = np.stack([out for out, _ in results])
    lse = np.stack([lse.swapaxes(1, 2) for _, lse in results])
    return (out, lse), mfa.attention(q, k, v, mask=seen, return_lse=True)


def test_equals_the_whole(parts):
    partial, (expected, expected_lse) = parts
    out, lse = mfa.flash_attn_combine(*partial)
    assert out.dtype == lse.dtype == np.float32
    np.testing.assert_allclose(out, expected, atol=2e-6)
    np.testing.assert_allclose(lse, expected_lse.swapaxes(1, 2), atol=2e-6)
    assert not out[:, 5].any()
    assert np.isneginf(lse[:, 5]).all()


def test_equals_the_oracle(parts):
    (out_partial, lse_partial), _ = parts
    pairs = [
        (out.swapaxes(1, 2), lse.swapaxes(1, 2)) for out, lse in zip(out_partial, lse_partial, strict=True)
    ]
    expected, expected_lse = oracle.combine(pairs)
    out, lse = mfa.flash_attn_combine(out_partial, lse_partial)
    np.testing.assert_allclose(out, expected.swapaxes(1, 2), atol=1e-6)
    np.testing.assert_allclose(lse, expected_lse.swapaxes(1, 2), atol=1e-6)


def test_parts_of_which_a_row_sees_nothing_are_not_read(parts):
    (out_partial, lse_partial), _ = parts
    expected = mfa.flash_attn_combine(out_partial, lse_partial)[0]
    out_partial[np.isneginf(lse_partial)] = np.nan
    assert checks.same_bits(mfa.flash_attn_combine(out_partial, lse_partial)[0], expected)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_out_and_out_dtype(parts, dtype):
    partial, _ = parts
    expected = mfa.flash_attn_combine(*partial)[0].astype(dtype)
    assert checks.same_bits(mfa.flash_attn_combine(*partial, out_dtype=dtype)[0], expected)
    for more in ({}, {"out_dtype": dtype}):
        out = np.full(expected.shape[::-1], np.nan, dtype).T
        assert mfa.flash_attn_combine(*partial, out=out, **more)[0] is out
        assert checks.same_bits(out, expected)


def test_tensors(parts):
    partial, _ = parts
    expected, expected_lse = mfa.flash_attn_combine(*partial)
    tensors = [torch.from_numpy(x) for x in partial]
    out, lse = mfa.flash_attn_combine(*tensors)
    assert np.array_equal(out.numpy(), expected)
    assert np.array_equal(lse.numpy(), expected_lse)
    given = torch.empty(expected.shape, dtype=torch.bfloat16)
    version = given._version
    assert mfa.flash_attn_combine(*tensors, out=given, out_dtype=torch.bfloat16)[0] is given
    assert given._version > version
    assert torch.equal(given, out.bfloat16())


def test_out_whose_elements_share_memory_is_refused_and_not_written(parts):
    partial, _ = parts
    row = np.zeros((1, 9, 4, 8), np.float32)
    out = np.lib.stride_tricks.as_strided(row, (2, 9, 4, 8), (0, *row.strides[1:]))
    with pytest.raises(ValueError, match=r"out: strides \(0, .*expected elements that share no memory"):
        mfa.flash_attn_combine(*partial, out=out)
    assert not row.any()

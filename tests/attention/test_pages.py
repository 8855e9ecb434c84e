"""Keys and values in pages, and in batches of a cache that sequences are pointed to."""

import numpy as np
import pytest
from hypothesis import given
from support import checks, sequence_strategies

import mfa


@given(call=sequence_strategies.calls(kinds=("pages", "cache")))
def test_equals_the_oracle(context, call):
    checks.check(context, *call.operands, **call.options)


def in_pages(cache, table, page_size):
    """(pages, page_size, H, D) that holds (B, rows, H, D), NaN elsewhere."""
    pages = np.full((table.max() + 2, page_size, *cache.shape[2:]), np.nan, cache.dtype)
    for b, row in np.ndindex(cache.shape[:2]):
        pages[table[b, row // page_size], row % page_size] = cache[b, row]
    return pages


@pytest.mark.parametrize("page_size", [1, 2, 7, 16, 64, 100])
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("dtype", [checks.FLOAT32, checks.BFLOAT16], ids=str)
def test_equals_contiguous_to_the_bit(context, rng, page_size, rows, dtype):
    query, key, value = (
        x.astype(dtype)
        for x in checks.operands(
            rng, batch=2, heads=4, kv_heads=2, query_length=rows, key_length=70, value_dim=8
        )
    )
    columns = -(-70 // page_size)
    table = rng.permutation(2 * columns).reshape(2, columns).astype(np.int32)
    pages = [in_pages(x, table, page_size) for x in (key, value)]
    lengths = np.array([70, 33], np.int32)
    options = {"seqused_k": lengths, "causal": True, "context": context, "return_lse": True}
    out, lse = mfa.attention(query, *pages, page_table=table, **options)
    expected, expected_lse = mfa.attention(query, key, value, **options)
    assert checks.same_bits(out, expected)
    assert checks.same_bits(lse, expected_lse)


def test_sequences_may_share_pages(context, rng):
    """A prompt that several sequences continue."""
    query, *_ = checks.operands(rng, batch=3, heads=2, query_length=1, key_length=12)
    table = np.array([[0, 1, 2], [0, 1, 3], [0, 4, -1]], np.int32)
    pages = [rng.standard_normal((5, 4, 2, 16)).astype(np.float32) for _ in range(2)]
    checks.check(context, query, *pages, page_table=table, seqused_k=np.array([12, 9, 8], np.int32))


@pytest.mark.parametrize("rows", [2, 20])
def test_more_rows_than_32_bits_count(context, rng, rows):
    """In pages whose rows are all the same: the last one is seen."""
    query = rng.standard_normal((1, rows, 2, 8)).astype(np.float32)
    first_rows = rng.standard_normal((2, 1, 2, 8)).astype(np.float32)
    page_size = 2**31
    pages = np.lib.stride_tricks.as_strided(
        first_rows, (2, page_size, 2, 8), (first_rows.strides[0], 0, *first_rows.strides[2:])
    )
    table = np.array([[0, 0, 1]], np.int32)
    out = mfa.attention(
        query, pages, pages, page_table=table, causal="bottom-right", window=(3, 0), context=context
    )
    np.testing.assert_allclose(out, np.broadcast_to(first_rows[1], out.shape), atol=1e-5)


def test_layout_heads_first(context, rng):
    query = rng.standard_normal((1, 2, 3, 8)).astype(np.float32)
    pages = [rng.standard_normal((4, 2, 5, 8)).astype(np.float32) for _ in range(2)]
    table = np.array([[3, 1]], np.int32)
    lengths = np.array([8], np.int32)
    checks.check(context, query, *pages, page_table=table, seqused_k=lengths, layout="bhsd")


def test_gradients_of_pages_that_nobody_has_are_zero(context, rng):
    query, dout = rng.standard_normal((2, 1, 4, 2, 8)).astype(np.float32)
    key, value = (np.full((4, 5, 2, 8), np.nan, np.float32) for _ in range(2))
    for x in (key, value):
        x[[3, 1], :4] = rng.standard_normal((2, 4, 2, 8))
        x[3, 4] = rng.standard_normal((2, 8))
    options = {"page_table": np.array([[3, 1, 99]], np.int32), "seqused_k": np.array([9], np.int32)}
    gradients = checks.check_backward(context, dout, query, key, value, **options)
    for gradient in (gradients.dk, gradients.dv):
        assert not gradient[[0, 2]].any()
        assert not gradient[1, 4].any()

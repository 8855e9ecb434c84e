"""Sequences of lengths of their own, packed or padded: each is as if it were alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, sequence_strategies, sequences

import mfa


def arrays(rng, *, rows, keys, heads=4, kv_heads=2, head_dim=16, value_dim=8):
    """Packed query, key, value and dout."""
    shapes = ((rows, heads, head_dim), (keys, kv_heads, head_dim), (keys, kv_heads, value_dim))
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    return query, key, value, rng.standard_normal((rows, heads, value_dim)).astype(np.float32)


def int32(*numbers):
    return np.array(numbers, np.int32)


@given(call=sequence_strategies.calls(kinds=("batch", "packed")))
def test_equals_the_oracle(context, call):
    checks.check(context, *call.operands, **call.options)


@given(call=sequence_strategies.backward_calls())
def test_gradients_equal_the_oracle(context, call):
    checks.check_backward(context, *call.operands, **call.options)


@given(call=sequence_strategies.calls(), data=st.data())
def test_rows_outside_are_zero(context, call, data):
    """Whatever was there before: an output is NaN, as all that nothing may read."""
    layout = call.options["layout"]
    out, lse = mfa.attention(*call.operands, context=context, return_lse=True, **call.options)
    given_out = np.full_like(out, np.nan)
    mfa.attention(*call.operands, context=context, out=given_out, **call.options)
    assert checks.same_bits(given_out, out)
    out, lse = checks.heads_first(out, layout), lse[None] if lse.ndim == 2 else lse
    outside = np.ones((out.shape[0], out.shape[2]), bool)
    query, key = (checks.heads_first(x, layout) for x in call.operands[:2])
    for sequence in sequences.sequences(query, key, call.options):
        outside[sequence.queries] = False
    assert not out.swapaxes(1, 2)[outside].astype(np.float32).any()
    assert np.isneginf(lse.swapaxes(1, 2)[outside]).all()


@given(call=sequence_strategies.calls())
def test_memory_does_not_change_a_bit(context, call):
    assert checks.same_bits(
        mfa.attention(*call.operands, context=context, **call.options),
        mfa.attention(*call.contiguous().operands, context=context, **call.contiguous().options),
    )


@pytest.mark.cpu
@given(call=sequence_strategies.backward_calls())
def test_threads_do_not_change_a_bit(backend, call):
    results = []
    for num_threads in (1, 3):
        with backend.context(num_threads=num_threads) as context:
            options = {**call.options, "forward_dtype": None}
            results.append(
                (
                    mfa.attention(*call.forward.operands, context=context, **call.forward.options),
                    checks.backward(context, *call.operands, **options),
                )
            )
    (out, gradients), (other_out, other_gradients) = results
    assert checks.same_bits(out, other_out)
    assert checks.same_gradient_bits(gradients, other_gradients)


@pytest.mark.parametrize("causal", [None, "bottom-right", "top-left"])
def test_packing_changes_nothing(context, rng, causal):
    """Sequences of one length, packed and as batches."""
    query, key, value, dout = arrays(rng, rows=3 * 20, keys=3 * 50)
    packed = {"cu_seqlens_q": int32(0, 20, 40, 60), "cu_seqlens_k": int32(0, 50, 100, 150), "causal": causal}
    batches = [x.reshape(3, -1, *x.shape[1:]) for x in (dout, query, key, value)]
    out, lse = mfa.attention(query, key, value, return_lse=True, context=context, **packed)
    expected, expected_lse = mfa.attention(*batches[1:], causal=causal, return_lse=True, context=context)
    np.testing.assert_allclose(out.reshape(expected.shape), expected, atol=2e-6)
    np.testing.assert_allclose(lse.reshape(4, 3, 20).swapaxes(0, 1), expected_lse, atol=2e-6)
    gradients = checks.backward(context, dout, query, key, value, **packed)
    expected = checks.backward(context, *batches, causal=causal)
    for name in ("dq", "dk", "dv"):
        mine, theirs = getattr(gradients, name), getattr(expected, name)
        np.testing.assert_allclose(mine.reshape(theirs.shape), theirs, atol=2e-5)


def test_padding_changes_nothing(context, rng):
    """More memory between and behind the sequences, and left padding."""
    query, key, value, _ = arrays(rng, rows=30, keys=45)
    plain = mfa.attention(
        query,
        key,
        value,
        cu_seqlens_q=int32(0, 10, 30),
        cu_seqlens_k=int32(0, 12, 45),
        causal=True,
        context=context,
    )
    wide_query = np.full((2, 25, *query.shape[1:]), np.nan, np.float32)
    wide_query[0, :10], wide_query[1, :20] = query[:10], query[10:]
    caches = []
    for x in (key, value):
        cache = np.full((2, 40, *x.shape[1:]), np.nan, np.float32)
        cache[0, 3:15], cache[1, 6:39] = x[:12], x[12:]
        caches.append(cache)
    lists = {"seqused_q": int32(10, 20), "seqused_k": int32(15, 39), "leftpad_k": int32(3, 6)}
    out = mfa.attention(wide_query, *caches, **lists, causal=True, context=context)
    np.testing.assert_allclose(out[0, :10], plain[:10], atol=2e-6)
    np.testing.assert_allclose(out[1, :20], plain[10:], atol=2e-6)
    assert not out[0, 10:].any()
    assert not out[1, 20:].any()


def test_one_long_sequence_beside_short_ones(context, backend, rng):
    longest = 100 if backend.is_emulated else 1500
    counts = [17, 1, longest, 0, 17]
    starts = int32(0, *np.cumsum(counts))
    *operands, dout = arrays(rng, rows=starts[-1], keys=starts[-1], heads=2, kv_heads=1)
    options = {"cu_seqlens_q": starts, "cu_seqlens_k": starts, "causal": True, "window": (40, 0)}
    checks.check(context, *operands, **options)
    checks.check_backward(context, dout, *operands, **options)


def test_largest_lengths_may_be_stated_larger(context, rng):
    *operands, dout = arrays(rng, rows=20, keys=20)
    lists = {"cu_seqlens_q": int32(0, 13, 20), "cu_seqlens_k": int32(0, 13, 20)}
    stated = {**lists, "max_seqlen_q": 1000, "max_seqlen_k": 2000}
    plain = mfa.attention(*operands, **lists, context=context)
    np.testing.assert_allclose(mfa.attention(*operands, **stated, context=context), plain, atol=2e-6)
    bias = np.full((16, 17), np.nan, np.float32)
    bias[:13, :13] = rng.standard_normal((13, 13))
    checks.check(context, *operands, **lists, bias=bias, max_seqlen_q=16, max_seqlen_k=17)
    bias = np.where(np.isnan(bias), 0, bias)
    checks.check_backward(context, dout, *operands, **lists, bias=bias, max_seqlen_q=16, max_seqlen_k=17)

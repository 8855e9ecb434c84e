"""Chunks: a row sees the keys of the chunk that it stands in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, strategies

import mfa


@given(call=strategies.backward_calls(), chunk=st.sampled_from((1, 2, 3, 16, 31, 32, 100, 513, 10**9)))
def test_equals_the_oracle(context, call, chunk):
    """Beside everything that a plain call may have."""
    options = {**call.forward.options, "attention_chunk": chunk}
    query, key, value = (np.nan_to_num(x) for x in call.forward.operands)
    checks.check(context, query, key, value, **options)
    options |= {"forward_dtype": call.forward_dtype}
    checks.check_backward(context, call.dout, query, key, value, **options)


@pytest.mark.parametrize("chunk", [1, 4, 7, 30, 100])
@pytest.mark.parametrize("causal", [None, "top-left", "bottom-right"])
def test_equals_a_call_for_each_chunk(context, rng, chunk, causal):
    query, key, value = checks.operands(rng, heads=2, query_length=30, key_length=30)
    out = mfa.attention(query, key, value, attention_chunk=chunk, causal=causal, context=context)
    for first in range(0, 30, chunk):
        rows = slice(first, first + chunk)
        alone = mfa.attention(query[:, rows], key[:, rows], value[:, rows], causal=causal, context=context)
        np.testing.assert_allclose(out[:, rows], alone, atol=2e-6)


def test_rows_that_stand_before_the_keys_see_none(context, rng):
    """Bottom-right, with more queries than keys: rows at negative places are in chunks without a key."""
    operands = checks.operands(rng, query_length=13, key_length=5)
    out, _ = checks.check(context, *operands, attention_chunk=4)
    assert not out[:, :8].any()
    assert out[:, 8:].all()


def test_keys_in_no_row_s_chunk_are_not_read(context, rng):
    query, key, value = checks.operands(rng, query_length=2, key_length=40)
    key[:, :32] = value[:, :32] = np.nan
    checks.check(context, query, key, value, attention_chunk=16)

"""The forward pass equals the float64 oracle, whatever is asked of it."""

import numpy as np
import pytest
from hypothesis import given
from support import checks, strategies

import mfa


@given(call=strategies.calls())
def test_equals_the_oracle(context, call):
    checks.check(context, *call.operands, **call.options)


@given(call=strategies.calls())
def test_layout_in_memory_does_not_change_a_bit(context, call):
    out, logsumexp = mfa.attention(*call.operands, **call.options, context=context, return_lse=True)
    plain = call.contiguous()
    plain_out, plain_logsumexp = mfa.attention(
        *plain.operands, **plain.options, context=context, return_lse=True
    )
    assert checks.same_bits(out, plain_out)
    assert checks.same_bits(logsumexp, plain_logsumexp)


@given(call=strategies.calls())
def test_asking_for_logsumexp_does_not_change_the_output(context, call):
    with_lse, _ = mfa.attention(*call.operands, **call.options, context=context, return_lse=True)
    with_lse = with_lse.copy()
    assert checks.same_bits(mfa.attention(*call.operands, **call.options, context=context), with_lse)


@pytest.mark.parametrize("head_dim", strategies.each_dim(384, 512, 1024))
def test_every_head_dim(backend, context, rng, head_dim):
    for dtype, value_dim in strategies.each_type_and_value_dim(backend, head_dim):
        arrays = checks.operands(
            rng,
            heads=2,
            query_length=13,
            key_length=70,
            head_dim=head_dim,
            value_dim=value_dim,
            dtype=dtype,
        )
        checks.check(context, *arrays, causal="bottom-right")


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("out_dtype", checks.DTYPES, ids=str)
def test_out_dtype(context, rng, dtype, out_dtype):
    arrays = checks.operands(rng, heads=2, query_length=33, key_length=65, head_dim=24, dtype=dtype)
    out, _ = checks.check(context, *arrays, out_dtype=out_dtype)
    assert out.dtype == out_dtype
    given = np.full(arrays[0].shape, np.nan, out_dtype)
    assert mfa.attention(*arrays, out=given, context=context) is given
    assert checks.same_bits(given, out)


def test_weights_stay_float32_on_request(context, rng):
    query, key, value = checks.operands(
        rng, query_length=48, key_length=300, head_dim=32, dtype=checks.BFLOAT16
    )
    options = {"intermediate_precision": "float32", "out_dtype": np.float32}
    checks.check(context, query, key, value, **options)
    reference = checks.expected(query, key, value, **options)
    assert reference.out_bound.max() < 2**-9 * np.abs(reference.out).max()  # bfloat16 weights could not pass


@pytest.mark.parametrize("group", [1, 2, 3, 4, 7, 8, 12, 16])
def test_grouped_heads_read_the_right_kv_head(context, rng, group):
    arrays = checks.operands(
        rng, batch=2, heads=2 * group, kv_heads=2, query_length=5, key_length=40, head_dim=16
    )
    checks.check(context, *arrays)

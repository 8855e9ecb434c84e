"""The forward pass of codes equals the float64 oracle of what they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, quantizing, strategies, tolerance
from support.quantizing import GRANULARITIES, PRECISIONS

import mfa

ANY_PRECISION = pytest.mark.parametrize("precision", PRECISIONS)
ANY_DTYPE = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
# Each granularity with some type of queries, and one with all of them.
DTYPE_AND_GRANULARITY = pytest.mark.parametrize(
    ("dtype", "granularity"),
    [
        (dtype, granularity)
        for i, granularity in enumerate(GRANULARITIES)
        for j, dtype in enumerate(checks.DTYPES)
        if granularity == "token" or i % len(checks.DTYPES) == j
    ],
    ids=str,
)
# Few rows read codes where they lie, more of them pack what they stand for.
ANY_ROWS = pytest.mark.parametrize("rows", [1, 3, 40])


def operands(
    rng, rows, keys, *, dtype=checks.FLOAT32, batch=2, heads=4, kv_heads=2, head_dim=72, value_dim=41
):
    return checks.operands(
        rng, batch=batch, heads=heads, kv_heads=kv_heads, query_length=rows, key_length=keys,
        head_dim=head_dim, value_dim=value_dim, dtype=dtype,
    )  # fmt: skip


# ------------------------------------------------------ formats


@ANY_PRECISION
@DTYPE_AND_GRANULARITY
@ANY_ROWS
def test_every_format_and_granularity(context, rng, precision, dtype, rows, granularity):
    query, key, value = operands(rng, rows, 75, dtype=dtype)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    key = quantizing.quantize(key + 1, precision, **shared, symmetric=False)
    value = quantizing.quantize(value, precision, **shared, scale_dtype=np.float16)
    quantizing.check(context, query, key, value, causal="bottom-right")


@DTYPE_AND_GRANULARITY
@ANY_ROWS
def test_mean_is_added(context, rng, dtype, rows, granularity):
    query, key, value = operands(rng, rows, 75, dtype=dtype)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    key = key.astype(np.float32) + 2 * rng.standard_normal((2, 1, 2, 72))
    key = quantizing.quantize(key, "int8", **shared, mean=key.mean(axis=1, keepdims=True))
    quantizing.check(context, query, key, value)


@pytest.mark.parametrize("zero_dtype", [np.int32, np.int8, np.uint8])
@ANY_ROWS
def test_zero_points_of_every_type(context, rng, zero_dtype, rows):
    query, key, value = operands(rng, rows, 50)
    precision = "uint4" if zero_dtype == np.uint8 else "int8"
    key, value = (quantizing.quantize(x + 1, precision, zero_dtype=zero_dtype) for x in (key, value))
    quantizing.check(context, query, key, value)


@ANY_PRECISION
@ANY_DTYPE
@ANY_ROWS
@pytest.mark.parametrize("coded", ["key", "value"])
def test_either_may_have_codes(context, rng, precision, dtype, rows, coded):
    query, key, value = operands(rng, rows, 60, dtype=dtype)
    if coded == "key":
        key = quantizing.quantize(key, precision)
    else:
        value = quantizing.quantize(value, precision)
    quantizing.check(context, query, key, value)


@ANY_ROWS
def test_each_of_its_own_format(context, rng, rows):
    query, key, value = operands(rng, rows, 60)
    key = quantizing.quantize(key, "uint4", rows=1, columns=32)
    quantizing.check(context, query, key, quantizing.quantize(value, "int8", rows=0, columns=1))


# ------------------------------------------------------ sizes


@ANY_ROWS
@pytest.mark.parametrize("keys", [0, 1, 2, 15, 16, 17, 31, 32, 33, 511, 512, 513, 1100])
@pytest.mark.parametrize("precision", ["int8", "uint4"])
def test_numbers_of_keys(context, rng, rows, keys, precision):
    query, key, value = operands(rng, rows, keys, batch=1, heads=2, kv_heads=1, head_dim=16, value_dim=16)
    key, value = (quantizing.quantize(x, precision, rows=32) for x in (key, value))
    quantizing.check(context, query, key, value)


@ANY_PRECISION
def test_no_batches(context, rng, precision):
    query, key, value = operands(rng, 3, 40, batch=0)
    key, value = (quantizing.quantize(x, precision) for x in (key, value))
    quantizing.check(context, query, key, value)


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 128, 130, 256])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_head_dims(backend, context, rng, dim, precision):
    for dtype, rows, columns in [(checks.FLOAT32, 1, 0), (checks.BFLOAT16, 40, 32), (checks.BFLOAT16, 2, 1)]:
        if backend.is_emulated and rows == 2:
            continue
        query, key, value = operands(rng, rows, 40, dtype=dtype, batch=1, head_dim=dim, value_dim=dim)
        key, value = (quantizing.quantize(x, precision, columns=columns) for x in (key, value))
        quantizing.check(context, query, key, value)


@ANY_ROWS
@pytest.mark.parametrize("group", [1, 2, 3, 5, 16])
def test_grouped_heads(context, rng, rows, group):
    query, key, value = operands(rng, rows, 40, heads=2 * group)
    key, value = (quantizing.quantize(x) for x in (key, value))
    quantizing.check(context, query, key, value)


@ANY_ROWS
@pytest.mark.parametrize("granularity", ["token", "channel", "groups"])
def test_scales_far_apart(context, rng, rows, granularity):
    query, key, value = operands(rng, rows, 60)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    factors = {"token": (1, 60, 1, 1), "channel": (1, 1, 1, -1), "groups": (1, 60, 1, 1)}[granularity]
    key, value = (
        quantizing.quantize(
            x * 10.0 ** rng.uniform(-4, 1, (factors[0], factors[1], 1, 1 if factors[3] == 1 else x.shape[3])),
            **shared,
        )
        for x in (key, value)
    )
    quantizing.check(context, query, key, value)


# ------------------------------------------------------ everything else that a call has


@given(
    call=strategies.calls(),
    precisions=st.tuples(*2 * [st.sampled_from(PRECISIONS)]),
    granularities=st.tuples(*2 * [st.sampled_from(list(GRANULARITIES.values()))]),
)
def test_equals_the_oracle(context, call, precisions, granularities):
    options, layout = dict(call.options), call.options["layout"]
    query, key, value = (x if layout == "bshd" else x.swapaxes(1, 2) for x in call.operands)
    key, value = (
        quantizing.quantize(np.nan_to_num(x.astype(np.float32)), precision, rows=rows, columns=columns)
        for x, precision, (rows, columns) in zip((key, value), precisions, granularities, strict=True)
    )
    if layout == "bhsd":
        key, value = quantizing.relaid(key), quantizing.relaid(value)
    result = mfa.attention(call.query, key, value, context=context, return_lse=True, **options)
    options |= {"layout": "bshd", "out": None, "out_dtype": result[0].dtype}
    checks.assert_matches(result, quantizing.expected(query, key, value, **options), layout)


# ------------------------------------------------------ where they lie


@ANY_ROWS
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_strides_change_no_bit(context, rng, rows, granularity):
    query, key, value = operands(rng, rows, 70)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    key, value = (quantizing.quantize(x, symmetric=False, **shared) for x in (key, value))
    expected = mfa.attention(query, key, value, context=context)

    def apart(array):
        buffer = np.zeros((*array.shape[:2], 2 * array.shape[2], 3 * array.shape[3]), array.dtype)
        view = buffer[:, ::-1, ::2, ::3]
        view[...] = array
        return view

    strided = [
        quantizing.in_memory(x, [apart(a) for a in (x.data, x.scales, x.zero_points)]) for x in (key, value)
    ]
    assert checks.same_bits(mfa.attention(query, *strided, context=context), expected)


@ANY_PRECISION
@ANY_ROWS
def test_one_head_and_batch_for_all(context, rng, precision, rows):
    query, key, value = operands(rng, rows, 40)
    key, value = (quantizing.quantize(x[:1, :, :1], precision, symmetric=False) for x in (key, value))
    shared = []
    for x in (key, value):
        data = np.broadcast_to(x.data, (2, 40, 2, x.data.shape[3]))
        shared.append(
            mfa.QuantizedTensor(
                data, x.scales, x.zero_points, precision=precision, shape=(2, 40, 2, x.shape[3])
            )
        )
    out = mfa.attention(query, *shared, context=context)
    reals = [np.broadcast_to(quantizing.real(x), (2, 40, 2, x.shape[3])) for x in (key, value)]
    reference = checks.expected(query, *reals)
    tolerance.assert_within(checks.heads_first(out, "bshd"), reference.out, reference.out_bound)


def unused_as_nan(tensor, used):
    """Scales of rows that are not among `used`, a bool (B, N), are NaN."""
    scales = tensor.scales.copy()
    scales[~used] = np.nan
    zeros = None if tensor.zero_points is None else np.where(used[..., None, None], tensor.zero_points, 2**30)
    return quantizing.in_memory(tensor, (tensor.data, scales, zeros, tensor.mean))


@ANY_ROWS
@pytest.mark.parametrize("columns", [0, 32, 1])
def test_what_no_sequence_has_is_not_read(context, rng, rows, columns):
    query, key, value = operands(rng, rows, 70)
    key, value = (quantizing.quantize(x, columns=columns, symmetric=False) for x in (key, value))
    lengths = np.array([33, 70], np.int32)
    options = {"seqused_k": lengths, "leftpad_k": np.array([3, 5], np.int32), "causal": True}
    expected = mfa.attention(query, key, value, context=context, **options)
    at = np.arange(70)
    used = (at >= options["leftpad_k"][:, None]) & (at < lengths[:, None])
    poisoned = [unused_as_nan(x, used) for x in (key, value)]
    out, lse = mfa.attention(query, *poisoned, context=context, return_lse=True, **options)
    assert checks.same_bits(out, expected)
    checks.assert_matches((out, lse), quantizing.expected(query, key, value, **options))


@ANY_PRECISION
@ANY_ROWS
@pytest.mark.parametrize("page_size", [7, 64])
@pytest.mark.parametrize("granularity", ["token", "groups"])
def test_pages_equal_contiguous_to_the_bit(context, rng, precision, rows, page_size, granularity):
    query, key, value = operands(rng, rows, 70)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    key, value = (quantizing.quantize(x, precision, symmetric=False, **shared) for x in (key, value))
    lengths = np.array([70, 33], np.int32)
    table = rng.permutation(2 * -(-70 // page_size)).reshape(2, -1).astype(np.int32)
    pages = [quantizing.paged(x, table, lengths, page_size) for x in (key, value)]
    options = {"seqused_k": lengths, "causal": True, "context": context, "return_lse": True}
    out, lse = mfa.attention(query, *pages, page_table=table, **options)
    expected, expected_lse = mfa.attention(query, key, value, **options)
    assert checks.same_bits(out, expected)
    assert checks.same_bits(lse, expected_lse)


@ANY_ROWS
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_scales_of_pages(context, rng, rows, granularity):
    """Those of several rows belong to a page."""
    query, key, value = operands(rng, rows, 48)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    pages = [quantizing.quantize(x.reshape(4, 24, 2, -1), **shared) for x in (key, value)]
    table = np.array([[2, 0], [3, 1]], np.int32)
    options = {"page_table": table, "seqused_k": np.array([48, 30], np.int32)}
    quantizing.check(context, query, *pages, **options)


@ANY_ROWS
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_packed_sequences(context, rng, rows, granularity):
    starts = np.array([0, 0, 37, 90], np.int32)
    query = rng.standard_normal((3 * rows, 4, 40)).astype(np.float32)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    whole = [quantizing.quantize(rng.standard_normal((1, 90, 2, 40)), **shared) for _ in range(2)]
    packed = [
        mfa.QuantizedTensor(x.data[0], x.scales[0], precision=x.precision, shape=x.shape[1:], **shared)
        for x in whole
    ]
    options = {"cu_seqlens_q": np.arange(4, dtype=np.int32) * rows, "cu_seqlens_k": starts, "causal": True}
    result = mfa.attention(query, *packed, context=context, return_lse=True, **options)
    reals = [quantizing.real(x)[0] for x in whole]
    checks.assert_matches(result, checks.expected(query, *reals, **options))


# ------------------------------------------------------ what else meets them


@DTYPE_AND_GRANULARITY
@ANY_ROWS
def test_query_value_meets_values(context, rng, dtype, rows, granularity):
    query, key, value = operands(rng, rows, 70, dtype=dtype)
    shared = dict(zip(("rows", "columns"), GRANULARITIES[granularity], strict=True))
    key, value = (quantizing.quantize(x, symmetric=False, **shared) for x in (key, value))
    qv = rng.standard_normal((*query.shape[:3], 41)).astype(dtype)
    quantizing.check(context, query, key, value, qv=qv)


@ANY_ROWS
def test_factors_come_on_top(context, rng, rows):
    query, key, value = operands(rng, rows, 70)
    key, value = (quantizing.quantize(x) for x in (key, value))
    factors = {
        name: rng.uniform(0.5, 2, (2, 2)).astype(np.float32)
        for name in ("q_descale", "k_descale", "v_descale")
    }
    quantizing.check(context, query, key, value, **factors)


@ANY_ROWS
def test_many_keys_are_split(context, rng, rows):
    query, key, value = operands(rng, rows, 2300, batch=1, heads=2, kv_heads=1, head_dim=16, value_dim=8)
    key, value = (quantizing.quantize(x, "int4", symmetric=False) for x in (key, value))
    quantizing.check(context, query, key, value, dropout_p=0.3, dropout_seed=5)

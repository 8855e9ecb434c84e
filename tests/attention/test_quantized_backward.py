"""Gradients with codes for keys and values are those with what the codes stand for: to the bit on the CPU,
and about the oracle's everywhere."""

import numpy as np
import pytest
from support import checks, oracle
from support.random_codes import RANGES, random_codes

import mfa

cpu = pytest.mark.cpu
GRANULARITIES = [(0, 0), (1, 0), (0, 1), (32, 0), (1, 32), (3, 1)]
ANY_CODES = pytest.mark.parametrize("precision", RANGES)
ANY_DTYPE = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
TOLERANCES = {checks.FLOAT32: 2e-5, checks.FLOAT16: 4e-3, checks.BFLOAT16: 3e-2}


def operands(
    rng, dtype, *, batch=2, heads=4, kv_heads=2, queries=70, keys=150, dim=40, value_dim=33, codes="int8",
    **scaled,
):  # fmt: skip
    query = rng.standard_normal((batch, queries, heads, dim)).astype(dtype)
    dout = rng.standard_normal((batch, queries, heads, value_dim)).astype(dtype)
    key = random_codes(rng, (batch, keys, kv_heads, dim), codes, **scaled)
    value = random_codes(rng, (batch, keys, kv_heads, value_dim), codes, **scaled)
    return dout, query, key, value


def of_floats(context, dout, query, key, value, **options):
    """Arguments of the call whose bits that of codes has: with what they stand for, in what is multiplied."""
    plan = mfa.plan(query, key, value, context=context, backward=True, **options)
    dtype = checks.BFLOAT16 if "bf16" in plan.kernel else checks.FLOAT32
    dequantized = [
        x.dequantize(dtype) if isinstance(x, mfa.QuantizedTensor) else x.astype(dtype) for x in (key, value)
    ]
    options.pop("compute_mode", None)
    arguments = query.astype(dtype), *dequantized
    out, lse = mfa.attention(*arguments, return_lse=True, context=context, **options)
    options = {**options, "context": context, "out_dtype": "float32"}
    return dout.astype(dtype), *arguments, out, lse, options


def check_bits(context, dout, query, key, value, **options):
    """Returns what of_floats does, and the gradients."""
    floats = *_, out, lse, float_options = of_floats(context, dout, query, key, value, **options)
    expected = mfa.attention_backward(*floats[:-1], **float_options)
    options = {**options, "context": context, "out_dtype": "float32"}
    gradients = mfa.attention_backward(dout, query, key, value, out, lse, **options)
    if floats[1].dtype == checks.BFLOAT16:  # but dbias is computed in float32
        gradients, expected = gradients._replace(dbias=None), expected._replace(dbias=None)
    assert checks.same_gradient_bits(gradients, expected)
    assert np.abs(gradients.dk).max() > 0
    return gradients


# ------------------------------------------------------ what codes stand for


@cpu
@ANY_CODES
@ANY_DTYPE
@pytest.mark.parametrize(("rows", "columns"), GRANULARITIES)
def test_bits_are_those_of_floats(context, rng, precision, dtype, rows, columns):
    arrays = operands(rng, dtype, codes=precision, rows=rows, columns=columns)
    check_bits(context, *arrays, causal="bottom-right")
    with_zeros = operands(
        rng, dtype, codes=precision, rows=rows, columns=columns, zero_points=True, scale_dtype=np.float16
    )
    check_bits(context, *with_zeros)


@cpu
@ANY_DTYPE
@pytest.mark.parametrize("coded", ["key", "value"])
def test_either_may_have_codes(context, rng, dtype, coded):
    dout, query, key, value = operands(rng, dtype)
    if coded == "key":
        value = value.dequantize(dtype)
    else:
        key = key.dequantize(dtype)
    check_bits(context, dout, query, key, value)


@cpu
@ANY_DTYPE
@pytest.mark.parametrize(
    "features",
    [
        {"causal": "top-left", "window": (60, 0)},
        {"softcap": 2.0, "alibi_slopes": np.linspace(0.1, 0.4, 4, dtype=np.float32)},
        {"mask": np.tri(70, 150, 50, dtype=bool)},
        {"bias": np.linspace(-1, 1, 70 * 150, dtype=np.float32).reshape(70, 150)},
        {"sinks": np.linspace(-1, 1, 4, dtype=np.float32)},
        {"dropout_p": 0.3, "dropout_seed": 5},
        {"attention_chunk": 50, "causal": True},
    ],
    ids=lambda features: next(iter(features)),
)
def test_features(context, rng, dtype, features):
    check_bits(context, *operands(rng, dtype, codes="uint4", rows=32), **features)


@cpu
@ANY_DTYPE
def test_many_blocks_of_keys(context, rng, dtype):
    arrays = operands(rng, dtype, batch=1, heads=1, kv_heads=1, queries=205, keys=1100, rows=1, columns=32)
    check_bits(context, *arrays)


@ANY_CODES
@ANY_DTYPE
@pytest.mark.parametrize("mean_of", [None, 1, 2])
def test_equals_the_oracle(context, rng, precision, dtype, mean_of):
    dout, query, key, value = operands(rng, dtype, codes=precision)
    mean = None if mean_of is None else rng.standard_normal((mean_of, 1, 2, 40)).astype(np.float32)
    key = mfa.QuantizedTensor(
        key.data, key.scales, key.zero_points, mean, precision=precision, shape=key.shape
    )
    exact = [
        checks.heads_first(np.asarray(x, np.float64), "bshd")
        for x in (dout, query, key.dequantize(), value.dequantize())
    ]
    expected = oracle.attention_backward(*exact)
    out, lse = mfa.attention(query, key, value, return_lse=True, context=context)
    gradients = mfa.attention_backward(
        dout, query, key, value, out, lse, out_dtype="float32", context=context
    )
    for name in ("dq", "dk", "dv"):
        wanted = getattr(expected, name).swapaxes(1, 2)
        error = np.linalg.norm(getattr(gradients, name) - wanted) / np.linalg.norm(wanted)
        assert error <= TOLERANCES[np.dtype(dtype)], (name, error)


# ------------------------------------------------------------- where rows lie


@cpu
@ANY_DTYPE
def test_sequences(context, rng, dtype):
    dout, query, key, value = operands(rng, dtype, batch=1, queries=140, keys=300, rows=32)
    packed = {
        "cu_seqlens_q": np.array([0, 50, 50, 130], np.int32),
        "cu_seqlens_k": np.array([0, 45, 160, 290], np.int32),
    }
    rows = dout[0], query[0]
    coded = [
        mfa.QuantizedTensor(x.data[0], x.scales[0], precision="int8", rows=32, shape=x.shape[1:])
        for x in (key, value)
    ]
    gradients = check_bits(context, *rows, *coded, causal=True, **packed)
    assert not gradients.dk[290:].any()
    assert not gradients.dq[130:].any()


@cpu
@ANY_DTYPE
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 0), (5, 32), (1, 1)])
def test_pages(context, rng, dtype, rows, columns):
    query = rng.standard_normal((2, 30, 4, 40)).astype(dtype)
    dout = rng.standard_normal((2, 30, 4, 33)).astype(dtype)
    key, value = (random_codes(rng, (11, 16, 2, dim), "int4", rows=rows, columns=columns) for dim in (40, 33))
    key.scales[7] = value.scales[7] = np.nan  # of a page that nobody has
    pages = {
        "page_table": np.array([[3, 9, 1, 0, 7], [4, 2, 10, 5, 6]], np.int32),
        "seqused_k": np.array([50, 79], np.int32),
    }
    with np.errstate(invalid="ignore"):
        gradients = check_bits(context, dout, query, key, value, causal=True, **pages)
    assert not gradients.dk[7].any()
    assert not gradients.dv[8].any()


@cpu
@ANY_CODES
def test_mean_is_that_of_the_sequence(context, rng, precision):
    """Not that of the stored batch."""
    dout, query, key, value = operands(rng, np.float32, codes=precision)
    mean = rng.standard_normal((2, 1, 2, 40)).astype(np.float32)
    swapped = mfa.QuantizedTensor(
        key.data[::-1], key.scales[::-1], None if key.zero_points is None else key.zero_points[::-1], mean,
        precision=precision, shape=key.shape,
    )  # fmt: skip
    plain = mfa.QuantizedTensor(
        key.data, key.scales, key.zero_points, mean, precision=precision, shape=key.shape
    )
    backwards = mfa.QuantizedTensor(
        value.data[::-1], value.scales[::-1], None if value.zero_points is None else value.zero_points[::-1],
        precision=precision, shape=value.shape,
    )  # fmt: skip
    out, lse = mfa.attention(query, plain, value, return_lse=True, context=context)
    expected = mfa.attention_backward(dout, query, plain, value, out, lse, context=context)
    gradients = mfa.attention_backward(
        dout, query, swapped, backwards, out, lse, context=context, cache_batch_idx=np.array([1, 0], np.int32)
    )
    assert checks.same_bits(gradients.dq, expected.dq)
    assert checks.same_bits(gradients.dk[::-1].copy(), expected.dk)


@cpu
@ANY_DTYPE
def test_elements_may_lie_apart(context, rng, dtype):
    dout, query, key, value = operands(rng, dtype, zero_points=True)
    out, lse = mfa.attention(query, key, value, return_lse=True, context=context)
    options = {"context": context, "zero_clipped": True, "compute_mode": "int8"}
    expected = mfa.attention_backward(dout, query, key, value, out, lse, **options)

    def apart(x):
        return np.stack([x, x], axis=-1)[..., 0]

    spread = [
        mfa.QuantizedTensor(apart(x.data), apart(x.scales), apart(x.zero_points), shape=x.shape)
        for x in (key, value)
    ]
    gradients = mfa.attention_backward(apart(dout), apart(query), *spread, apart(out), lse, **options)
    assert checks.same_gradient_bits(gradients, expected)


# ------------------------------------------------------------------ int8 mode


@cpu
@ANY_DTYPE
def test_int8_mode_computes_in_floats(context, rng, dtype):
    """Of 16 bits, in pairs of bfloat16 where the processor has them."""
    dout, *arrays = operands(rng, dtype)
    dout = dout.astype(checks.BFLOAT16).astype(dtype)  # delta is of dout as it is given
    check_bits(context, dout, *arrays, compute_mode="int8")
    kernel = mfa.plan(*arrays, compute_mode="int8", backward=True, context=context).kernel
    paired = dtype != checks.FLOAT32 and context.describe().isa.endswith("bf16")
    assert ("bf16" in kernel) == paired


# ----------------------------------------------------------------------- delta


@ANY_DTYPE
def test_delta_is_written_and_read(context, rng, dtype):
    dout, query, key, value = operands(rng, dtype)
    out, lse = mfa.attention(query, key, value, return_lse=True, context=context)
    options = {"out_dtype": "float32", "context": context}
    expected = mfa.attention_backward(dout, query, key, value, out, lse, **options)
    delta = np.full((2, 4, 70), np.nan, np.float32)
    gradients = mfa.attention_backward(dout, query, key, value, out, lse, delta=delta, **options)
    assert checks.same_gradient_bits(gradients, expected)
    products = np.asarray(dout, np.float64) * np.asarray(out, np.float64)
    np.testing.assert_allclose(delta, products.sum(-1).swapaxes(1, 2), rtol=1e-5, atol=1e-5)
    kept = delta.copy()
    gradients = mfa.attention_backward(dout, query, key, value, None, lse, delta=delta, **options)
    assert checks.same_gradient_bits(gradients, expected)
    assert checks.same_bits(delta, kept)
    other = mfa.attention_backward(dout, query, key, value, None, lse, delta=delta + 1, **options)
    assert checks.same_bits(other.dv, expected.dv)
    assert not checks.same_bits(other.dk, expected.dk)


def test_delta_of_rows_of_no_sequence_is_0(context, rng):
    dout, query, key, value = operands(rng, np.float32)
    lists = {"seqused_q": np.array([70, 20], np.int32), "context": context}
    out, lse = mfa.attention(query, key, value, return_lse=True, **lists)
    delta = np.full((2, 4, 70), np.nan, np.float32)
    mfa.attention_backward(dout, query, key, value, out, lse, delta=delta, **lists)
    assert not delta[1, :, 20:].any()
    assert (delta[0] != 0).all()
    assert (delta[1, :, :20] != 0).all()


# ---------------------------------------------------------------- zero clipped


@ANY_CODES
@pytest.mark.parametrize("zero_points", [False, True])
def test_zero_clipped(context, rng, precision, zero_points):
    arrays = operands(rng, np.float32, codes=precision, zero_points=zero_points)
    _, _, key, value = arrays
    out, lse = mfa.attention(*arrays[1:], return_lse=True, context=context)
    whole = mfa.attention_backward(*arrays, out, lse, context=context)
    some = mfa.attention_backward(*arrays, out, lse, zero_clipped=True, context=context)
    assert checks.same_bits(some.dq, whole.dq)
    lowest, highest = RANGES[precision]
    if key.zero_points is None:
        lowest = -highest  # the lowest code that mfa_quantize makes; what is lower is further out
    for operand, gradient, expected in ((key, some.dk, whole.dk), (value, some.dv, whole.dv)):
        zeros = 0 if operand.zero_points is None else operand.zero_points
        codes = np.rint(operand.dequantize() / operand.scales + zeros)
        clipped = (codes <= lowest) | (codes >= highest)
        assert 0 < clipped.mean() < 1
        assert np.array_equal(gradient, np.where(clipped, 0, expected))

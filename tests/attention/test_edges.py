"""Sizes, magnitudes and layouts at the ends of what is allowed."""

import numpy as np
import pytest
from support import checks, strategies, tolerance

import mfa

LAYOUT = {"layout": "bhsd"}


def operands(rng, **sizes):
    return checks.operands(rng, **sizes, **LAYOUT)


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "query_length", "key_length"), [(0, 5, 5), (2, 0, 5), (2, 5, 0), (0, 0, 0), (2, 0, 0)]
)
@pytest.mark.parametrize("causal", [None, "top-left", "bottom-right"])
def test_empty(context, rng, dtype, batch, query_length, key_length, causal):
    arrays = operands(
        rng, batch=batch, heads=2, query_length=query_length, key_length=key_length, dtype=dtype
    )
    out, logsumexp = mfa.attention(*arrays, causal=causal, context=context, return_lse=True, **LAYOUT)
    assert out.shape == (batch, 2, query_length, 16)
    assert logsumexp.shape == (batch, 2, query_length)
    assert not out.astype(np.float32).any()
    assert np.isneginf(logsumexp).all()


def test_no_keys_leaves_the_sink(context, rng):
    arrays = operands(rng, heads=2, query_length=3, key_length=0)
    sinks = np.array([1.5, -2.0], np.float32)
    out, logsumexp = mfa.attention(*arrays, sinks=sinks, context=context, return_lse=True, **LAYOUT)
    assert not out.any()
    assert (logsumexp == sinks[None, :, None]).all()


def test_no_keys_overwrites_what_the_output_held(context, rng):
    arrays = operands(rng, query_length=3, key_length=0)
    out = np.full((1, 1, 3, 16), np.nan, np.float32)
    mfa.attention(*arrays, out=out, context=context, **LAYOUT)
    assert not out.any()


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_one_of_everything(context, rng, dtype):
    arrays = operands(rng, query_length=1, key_length=1, head_dim=1, dtype=dtype)
    out, _ = checks.check(context, *arrays, **LAYOUT)
    assert checks.same_bits(out, arrays[2])


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_lengths_around_tile_edges(context, rng, dtype):
    for query_length in strategies.around(12, 16, 24, 48, 64):
        for key_length in strategies.around(16, 32, 64, 128, 256):
            arrays = operands(rng, query_length=query_length, key_length=key_length, head_dim=17, dtype=dtype)
            checks.check(context, *arrays, **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("key_length", strategies.around(1024, 2048, 4096))
def test_few_rows_against_many_keys(context, rng, dtype, key_length):
    arrays = operands(rng, heads=4, kv_heads=2, query_length=2, key_length=key_length, dtype=dtype)
    for options in (
        {},
        {"causal": "bottom-right"},
        {"causal": "top-left"},
        {"window": (1500, 0)},
        {"window": (3, 0)},
    ):
        checks.check(context, *arrays, **options, **LAYOUT)


# ---------------------------------------------------------------- magnitudes


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("scale", [None, 0.0, 1.0, -0.25, -1.0, 1e-3])
def test_softmax_scale(context, rng, dtype, scale):
    arrays = operands(rng, heads=2, query_length=21, key_length=80, dtype=dtype)
    _, logsumexp = checks.check(context, *arrays, softmax_scale=scale, **LAYOUT)
    if scale == 0:
        np.testing.assert_allclose(logsumexp, np.log(80), rtol=1e-6)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("softcap", [0.01, 1.0, 30.0])
def test_softcap_of_huge_scores(context, rng, dtype, softcap):
    """Beyond the cap tanh is flat: its exponentials overflow, and the answer must not."""
    query, key, value = operands(rng, heads=2, query_length=21, key_length=80, dtype=dtype)
    query, key = (x * np.array(100, dtype) for x in (query, key))
    _, logsumexp = checks.check(context, query, key, value, softcap=softcap, **LAYOUT)
    assert (logsumexp <= softcap + np.log(80) + 1e-4).all()


def test_largest_scale(context):
    """Times log2(e) it would be infinite."""
    query = np.full((1, 1, 3, 4), 1e-3, np.float32)
    key = np.zeros((1, 1, 5, 4), np.float32)
    value = np.arange(20, dtype=np.float32).reshape(1, 1, 5, 4)
    out = mfa.attention(query, key, value, softmax_scale=3e38, context=context, **LAYOUT)
    np.testing.assert_allclose(out, np.broadcast_to(value.mean(axis=2, keepdims=True), out.shape), rtol=1e-6)


@pytest.mark.parametrize("softcap", [1e30, 1e38])
def test_largest_softcap(context, rng, softcap):
    """It caps nothing. Scores divided by it are subnormal, which GPUs take for zero."""
    arrays = operands(rng, heads=2, query_length=21, key_length=80)
    out, logsumexp = mfa.attention(*arrays, softcap=softcap, context=context, return_lse=True, **LAYOUT)
    expected, expected_logsumexp = mfa.attention(*arrays, context=context, return_lse=True, **LAYOUT)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(logsumexp, expected_logsumexp, rtol=1e-5)


def test_smallest_softcap(context):
    """Its inverse would be infinite."""
    query = np.zeros((1, 1, 3, 4), np.float32)
    key = np.ones((1, 1, 5, 4), np.float32)
    value = np.arange(20, dtype=np.float32).reshape(1, 1, 5, 4)
    out = mfa.attention(query, key, value, softcap=1e-39, context=context, **LAYOUT)
    np.testing.assert_allclose(out, np.broadcast_to(value.mean(axis=2, keepdims=True), out.shape), rtol=1e-6)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_scores_beyond_half_precision(context, rng, dtype):
    """q . k reaches 10**6, where float16 is infinite; a wrong maximum would overflow the exponential."""
    query, key, value = operands(rng, heads=2, query_length=30, key_length=90, head_dim=64, dtype=dtype)
    query, key = (x * np.array(200, dtype) for x in (query, key))
    out, _ = checks.check(context, query, key, value, softmax_scale=1.0, **LAYOUT)
    assert np.isfinite(out.astype(np.float32)).all()


@pytest.mark.parametrize("dtype", [checks.FLOAT32, checks.BFLOAT16], ids=str)
@pytest.mark.parametrize("query_length", [1, 100])
@pytest.mark.parametrize("magnitude", [1e6, 1e9, 1e10, 1e15, 1e27])
def test_scores_that_are_further_apart_than_exponents_reach(context, rng, magnitude, query_length, dtype):
    """What rounding takes from scores like these may be more than an exponential can hold."""
    query = (rng.uniform(0.5, 1, (1, 1, query_length, 8)) * magnitude).astype(dtype)
    key = np.array([1, 0.5], dtype).reshape(1, 1, 2, 1).repeat(8, axis=3)
    value = np.array([1, 2], dtype).reshape(1, 1, 2, 1).repeat(8, axis=3)
    out, logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **LAYOUT)
    np.testing.assert_allclose(out.astype(np.float32), 1, rtol=checks.tolerance.unit_roundoff(dtype))
    np.testing.assert_allclose(logsumexp, query.astype(np.float64).sum(axis=-1) / 8**0.5, rtol=1e-6)


@pytest.mark.parametrize("rising", [True, False])
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_maximum_that_moves_through_every_tile(context, rng, dtype, rising):
    """Sorted scores: each tile of keys rescales all that came before, or none does."""
    key_length = 700
    query, key, value = operands(rng, query_length=20, key_length=key_length, head_dim=1, dtype=dtype)
    ramp = np.linspace(0, 90, key_length).astype(dtype)
    key[0, 0, :, 0] = ramp if rising else ramp[::-1]
    query[...] = 1
    checks.check(context, query, key, value, **LAYOUT)


@pytest.mark.parametrize("sign", [1, -1])
def test_all_scores_huge_and_alike(context, rng, sign):
    """A sum of exponentials without the maximum taken out would overflow, or vanish."""
    query, key, value = operands(rng, query_length=5, key_length=300, head_dim=4)
    query[...], key[...] = sign * 100, 100
    out, logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **LAYOUT)
    average = value.mean(axis=2, keepdims=True, dtype=np.float64)
    np.testing.assert_allclose(out, np.broadcast_to(average, out.shape), atol=1e-6)
    np.testing.assert_allclose(logsumexp, sign * 20000 + np.log(300), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), checks.BFLOAT16], ids=str)
def test_subnormal_operands(context, rng, dtype):
    """Subnormal float16 is a normal float32, so none of it may be flushed; bfloat16's is not."""
    step = tolerance.smallest_step(dtype)
    query, key, value = operands(rng, query_length=9, key_length=40, dtype=dtype)
    if dtype == np.float16:
        query, value = ((rng.integers(-1000, 1000, x.shape) * step).astype(dtype) for x in (query, value))
        out, _ = checks.check(context, query, key, value, softmax_scale=1e4, out_dtype=np.float32, **LAYOUT)
        assert 0 < np.abs(out).max() < 1e-4
    else:
        query, value = ((rng.integers(-100, 100, x.shape) * step).astype(dtype) for x in (query, value))
        checks.check(context, query, key, value, **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_output_beyond_its_type_is_infinite(context, dtype):
    zeros = np.zeros((1, 1, 4, 8), np.float32)
    value = np.full((1, 1, 4, 8), 1e6, np.float32)
    out = mfa.attention(zeros, zeros, value, out_dtype=dtype, context=context, **LAYOUT).astype(np.float32)
    np.testing.assert_allclose(out, np.inf if dtype == np.float16 else 1e6, rtol=2**-8)


def test_16_bit_output_rounds_to_nearest_even(context):
    value = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-8, np.nan], np.float32)
    value = value.reshape(1, 1, 1, 6)
    zero = np.zeros((1, 1, 1, 1), np.float32)
    for dtype in (checks.BFLOAT16, checks.FLOAT16):
        out = mfa.attention(zero, zero, value, out_dtype=dtype, context=context, **LAYOUT)
        np.testing.assert_array_equal(out.astype(np.float32), value.astype(dtype).astype(np.float32))


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_packed_qkv_views(context, rng, dtype):
    """Query, key and value interleaved in one array, the output in a fourth slot of it."""
    packed = rng.standard_normal((2, 70, 4, 3, 24)).astype(dtype)
    query, key, value, out = (packed[:, :, slot] for slot in range(4))
    reference = checks.expected(query, key, value)
    result = mfa.attention(query, key, value, out=out, return_lse=True, context=context)
    assert result[0] is out
    checks.assert_matches(result, reference)


def test_out_is_written_through_any_strides_and_nowhere_else(context, rng):
    query, key, value = checks.operands(rng, batch=2, heads=3, query_length=30, key_length=40, head_dim=10)
    plain = mfa.attention(query, key, value, context=context)
    buffer = np.full((2, 5, 60, 13), np.float32(7))
    out = buffer.transpose(0, 2, 1, 3)[:, ::-2, 1:4, 2:12]
    mfa.attention(query, key, value, out=out, context=context)
    assert checks.same_bits(out, plain)
    out[...] = 7
    assert (buffer == 7).all()


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_unaligned_rows(context, rng, dtype):
    """Every start is aligned to its element and to nothing more."""
    arrays = operands(rng, heads=2, query_length=20, key_length=70, head_dim=33, dtype=dtype)
    plain = mfa.attention(*arrays, context=context, **LAYOUT)
    for shift in (1, 3, 7):
        shifted = []
        for array in arrays:
            buffer = np.zeros(array.size + shift, dtype)
            shifted.append(buffer[shift:].reshape(array.shape))
            shifted[-1][...] = array
        assert checks.same_bits(mfa.attention(*shifted, context=context, **LAYOUT), plain)


@pytest.mark.parametrize("slot", ["query", "key", "value", "mask", "bias"])
def test_output_over_an_input_is_refused(context, rng, slot):
    square = {
        name: rng.standard_normal((1, 1, 16, 16)).astype(np.float32) for name in ("query", "key", "value")
    }
    options = (
        {"bias": np.zeros((1, 1, 16, 16), np.float32)}
        if slot != "mask"
        else {"mask": np.zeros((16, 16), np.float32)}
    )
    target = {**square, **options}[slot]
    before = target.copy()
    with pytest.raises((ValueError, BufferError), match="out"):
        mfa.attention(**square, **options, out=target.reshape(1, 1, 16, 16), context=context, **LAYOUT)
    assert (target == before).all()


def test_output_that_partly_overlaps_is_refused(context, rng):
    memory = rng.standard_normal(3000).astype(np.float32)
    query, key, value = (memory[i * 256 : (i + 1) * 256].reshape(1, 1, 16, 16) for i in range(3))
    for start in (1, 255, 300, 767):
        with pytest.raises((ValueError, BufferError), match="out"):
            mfa.attention(
                query,
                key,
                value,
                out=memory[start : start + 256].reshape(1, 1, 16, 16),
                context=context,
                **LAYOUT,
            )
    out = memory[768:1024].reshape(1, 1, 16, 16)
    assert mfa.attention(query, key, value, out=out, context=context, **LAYOUT) is out


def test_output_that_overlaps_itself_is_refused(context, rng):
    arrays = operands(rng, query_length=4, key_length=4, head_dim=4)
    memory = np.zeros(64, np.float32)
    for strides in ((0, 0, 0, 4), (0, 0, 4, 4), (0, 0, 8, 4)):
        out = np.lib.stride_tricks.as_strided(memory, (1, 1, 4, 4), strides)
        with pytest.raises((ValueError, BufferError), match="out"):
            mfa.attention(*arrays, out=out, context=context, **LAYOUT)


KEYS = 41
# By what a row may be left the keys begin .. end - 1: keywords, or None if it cannot leave just these.
BOUNDS = {
    "bool mask": lambda begin, end, seen: {"mask": seen},
    "additive mask": lambda begin, end, seen: {"bias": np.where(seen, 0, -np.inf).astype(np.float32)},
    "left window": lambda begin, end, seen: (
        {"window": (KEYS - 1 - begin, -1), "alignment": "bottom-right"} if end == KEYS else None
    ),
    "right window": lambda begin, end, seen: (
        {"window": (-1, end - 1), "alignment": "top-left"} if begin == 0 else None
    ),
}


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("bound", BOUNDS)
def test_infinite_value_beside_keys_that_are_not_seen(context, dtype, bound):  # vllm#936
    for heads in (1, 3, 20):  # read where they lie up to 16, and packed
        query = np.zeros((1, heads, 1, 4), dtype)
        key = np.zeros((1, 1, KEYS, 4), dtype)
        for begin, end in ((0, KEYS), (3, KEYS), (4, KEYS), (0, 1), (0, 16), (0, 17), (5, 6), (15, 32)):
            seen = np.zeros((1, 1, 1, KEYS), bool)
            seen[..., begin:end] = True
            keywords = BOUNDS[bound](begin, end, seen)
            for infinite in (begin, end - 1) if keywords else ():
                value = np.ones((1, 1, KEYS, 4), dtype)
                value[:, :, infinite, 1] = np.inf
                out = mfa.attention(query, key, value, context=context, **LAYOUT, **keywords)
                expected = np.tile(np.array([1, np.inf, 1, 1], np.float32), (1, heads, 1, 1))
                np.testing.assert_allclose(out.astype(np.float32), expected, rtol=2**-7)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("rows", range(1, 8))
def test_infinite_value_of_the_last_key_of_a_causal_row(context, dtype, rows):  # vllm#936
    zeros, value = np.zeros((1, 1, rows, 4), dtype), np.ones((1, 1, rows, 4), dtype)
    value[:, :, -1, 1] = np.inf
    out = mfa.attention(zeros, zeros, value, causal="top-left", context=context, **LAYOUT)
    np.testing.assert_allclose(out[0, 0, -1].astype(np.float32), [1, np.inf, 1, 1], rtol=2**-7)

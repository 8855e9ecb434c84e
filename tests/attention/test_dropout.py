"""Which weights dropout drops, bit for bit, and what dropping them does on the average."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, philox

import mfa

LAYOUT = {"layout": "bhsd"}
ANY = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
words = st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1))


def kept_weights(context, shape, *, kv_heads=None, dtype=checks.FLOAT32, **options):
    """Bool (B, H, Nq, Nkv): what a call keeps. All weights are alike, each key's value is a unit vector."""
    batch, heads, query_length, key_length = shape
    kv_heads = kv_heads or heads
    query = np.zeros((batch, heads, query_length, 1), dtype)
    key = np.zeros((batch, kv_heads, key_length, 1), dtype)
    value = np.broadcast_to(np.eye(key_length, dtype=dtype), (batch, kv_heads, key_length, key_length))
    return mfa.attention(query, key, value, context=context, **options, **LAYOUT) != 0


def kept_backward(context, shape, *, dtype=checks.FLOAT32, **options):
    """The same from dvalue, where each row's dout is a unit vector: (P R)^T is then dvalue itself."""
    batch, heads, query_length, key_length = shape
    query = np.zeros((batch, heads, query_length, 1), dtype)
    key = np.zeros((batch, heads, key_length, 1), dtype)
    value = np.zeros((batch, heads, key_length, query_length), dtype)
    dout = np.broadcast_to(np.eye(query_length, dtype=dtype), (batch, heads, query_length, query_length))
    g = checks.backward(context, dout, query, key, value, wanted=["dv"], **options, **LAYOUT)
    return g.dv.swapaxes(-1, -2) != 0


def expected_kept(shape, *, dropout_p, dropout_seed=0, dropout_offset=0):
    bits = philox.dropout_bits(shape, seed=dropout_seed, offset=dropout_offset)
    return bits >= philox.dropout_threshold(dropout_p)


# Short queries read keys where they lie, long ones pack them, many keys are split: each has its own loops.
SHAPES = [
    (2, 3, 5, 40),
    (1, 1, 1, 700),
    (2, 1, 50, 300),
    (1, 2, 130, 129),
    (1, 1, 20, 1100),
]


@ANY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 0.9])
def test_mask_is_the_one_defined(context, dtype, shape, dropout_p):
    options = {"dropout_p": dropout_p, "dropout_seed": 0x123456789ABCDEF0, "dropout_offset": 3 << 40 | 77}
    expected = expected_kept(shape, **options)
    assert (kept_weights(context, shape, dtype=dtype, **options) == expected).all()
    assert (kept_backward(context, shape, dtype=dtype, **options) == expected).all()


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 70), st.integers(1, 150)),
    seed=words,
    offset=words,
    dropout_p=st.floats(0, 1, exclude_max=True, width=32),
)
def test_mask_of_any_seed_and_offset(context, shape, seed, offset, dropout_p):
    options = {"dropout_p": dropout_p, "dropout_seed": seed, "dropout_offset": offset}
    expected = expected_kept(shape, **options)
    assert (kept_weights(context, shape, **options) == expected).all()
    assert (kept_backward(context, shape, **options) == expected).all()


def test_grouped_heads_have_masks_of_their_own(context):
    """Counted by query head, whatever key/value head they share."""
    options = {"dropout_p": 0.5, "dropout_seed": 1}
    for shape in ((2, 6, 3, 50), (2, 6, 40, 50)):
        kept = kept_weights(context, shape, kv_heads=2, **options)
        assert (kept == expected_kept(shape, **options)).all()


def test_a_column_is_counted_from_the_first_key(context):
    """Neither a window nor the causal mask moves the mask."""
    options = {"dropout_p": 0.5, "dropout_seed": 1}
    shape = (1, 2, 60, 400)
    expected = expected_kept(shape, **options)
    for features in ({"causal": "bottom-right"}, {"window": (150, 20), "alignment": "bottom-right"}):
        seen = kept_weights(context, shape, **features)
        assert not seen.all()
        kept = kept_weights(context, shape, **features, **options)
        assert (kept == (expected & seen)).all()


def test_batches_of_a_call_differ_and_a_batch_alone_is_the_first(context):
    options = {"dropout_p": 0.5, "dropout_seed": 9}
    whole = kept_weights(context, (3, 2, 30, 60), **options)
    assert (kept_weights(context, (1, 2, 30, 60), **options) == whole[:1]).all()
    assert not (whole[0] == whole[1]).all()


@ANY
def test_probability_zero_is_no_dropout(context, rng, dtype):
    arrays = checks.operands(rng, heads=2, query_length=30, key_length=70, dtype=dtype, **LAYOUT)
    plain = mfa.attention(*arrays, context=context, **LAYOUT)
    same = mfa.attention(*arrays, dropout_p=0.0, dropout_seed=5, context=context, **LAYOUT)
    assert checks.same_bits(same, plain)


@ANY
@pytest.mark.parametrize("dropout_p", [1e-9, 2**-18, 2**-17, 2**-16, 0.999, 0.99999, 1 - 2**-24])
def test_probability_near_its_ends(context, rng, dtype, dropout_p):
    """Bits are 16: below 2**-17 nothing is dropped, and from 1 - 2**-17 on all is."""
    dout, *inputs = checks.operands_and_dout(
        rng, heads=2, query_length=100, key_length=200, dtype=dtype, **LAYOUT
    )
    options = {"dropout_p": dropout_p, "dropout_seed": 2, **LAYOUT}
    out, _ = checks.check(context, *inputs, **options)
    g = checks.check_backward(context, dout, *inputs, **options)
    if dropout_p >= 1 - 2**-17:
        assert not any(x.astype(np.float32).any() for x in (out, *g[:3]))


@pytest.mark.parametrize(("heads", "rows", "seed"), [(1, 100, 218), (40, 5, 25)])
def test_weight_times_its_factor_may_leave_the_range_of_half(context, heads, rows, seed):
    """Each row sees one key, and one row keeps it: 1e5 times a small value is an ordinary number."""
    options = {"dropout_p": 0.99999, "dropout_seed": seed, **LAYOUT}
    assert expected_kept((1, heads, rows, 1), dropout_p=0.99999, dropout_seed=seed).sum() == 1
    query, key, value = (
        np.full((1, size, length, 8), 1e-3, np.float16) for size, length in ((heads, rows), (1, 1), (1, 1))
    )
    out, _ = checks.check(context, query, key, value, **options)
    assert 90 < out.max() < 110


def test_logsumexp_ignores_dropout(context, rng):
    for query_length in (2, 40):
        arrays = checks.operands(rng, heads=2, query_length=query_length, key_length=300, **LAYOUT)
        sinks = {"sinks": np.zeros(2, np.float32), "return_lse": True, "context": context, **LAYOUT}
        _, logsumexp = mfa.attention(*arrays, **sinks)
        _, same = mfa.attention(*arrays, dropout_p=0.7, **sinks)
        assert checks.same_bits(same, logsumexp)


# ---------------------------------------------------------------- as random numbers

TRIALS = 1 << 20
STANDARD_DEVIATIONS = 5  # one failure in 1.7 million, and the seed is fixed: it would fail always, or never


@pytest.fixture(scope="module")
def many():
    return philox.dropout_bits((2, 4, 128, 1024), seed=42, offset=0)


@pytest.mark.parametrize("dropout_p", [0.001, 0.1, 0.5, 0.9])
def test_kept_fraction(many, dropout_p):
    assert many.size == TRIALS
    probability = philox.dropout_threshold(dropout_p) / 65536
    assert abs(probability - dropout_p) <= 2**-17
    dropped = (many < philox.dropout_threshold(dropout_p)).mean()
    assert abs(dropped - probability) < STANDARD_DEVIATIONS * np.sqrt(dropout_p * (1 - dropout_p) / TRIALS)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def test_bits_are_uniform_and_neighbours_do_not_correlate(many):
    counts = np.bincount(many.ravel() >> 8, minlength=256)
    chi_square = ((counts - TRIALS / 256) ** 2 / (TRIALS / 256)).sum()
    assert abs(chi_square - 255) < STANDARD_DEVIATIONS * np.sqrt(2 * 255)
    limit = STANDARD_DEVIATIONS / np.sqrt(TRIALS / 2)
    for axis in range(4):
        for distance in (1, 16, 128) if axis == 3 else (1,):
            near = many.take(range(many.shape[axis] - distance), axis=axis)
            far = many.take(range(distance, many.shape[axis]), axis=axis)
            assert abs(correlation(near, far)) < limit, (axis, distance)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 43}, {"seed": 42 + (1 << 32)}, {"offset": 1}, {"offset": 1 << 32}, {"seed": 0, "offset": 42}],
    ids=str,
)
def test_another_seed_or_offset_is_another_mask(many, changed):
    other = philox.dropout_bits(many.shape, **{"seed": 42, "offset": 0, **changed})
    assert abs(correlation(many, other)) < STANDARD_DEVIATIONS / np.sqrt(TRIALS)


@ANY
def test_outputs_and_gradients_are_unbiased(context, rng, dtype):
    """Over many seeds, the mean is what there is without dropout."""
    dout, *inputs = checks.operands_and_dout(rng, query_length=24, key_length=40, dtype=dtype, **LAYOUT)
    float32 = {"out_dtype": np.float32, "forward_dtype": np.float32, **LAYOUT}

    def run(**dropout):
        out = mfa.attention(*inputs, out_dtype=np.float32, context=context, **dropout, **LAYOUT)
        return (out, checks.backward(context, dout, *inputs, wanted=["dv"], **dropout, **float32).dv)

    plain = run()
    runs = [run(dropout_p=0.25, dropout_seed=seed) for seed in range(400)]
    for sample, expected in zip(zip(*runs, strict=True), plain, strict=True):
        sample = np.array(sample)
        error = (sample.mean(axis=0) - expected) / (sample.std(axis=0) / np.sqrt(len(runs)))
        assert abs(error.mean()) < 0.5  # elements share their masks, so their mean error is not much smaller
        assert np.abs(error).max() < STANDARD_DEVIATIONS
        assert np.sqrt((error**2).mean()) < 1.5

"""Masks, windows, alignments and sinks one by one, and what a hidden or a non-finite value may reach."""

import numpy as np
import pytest
from support import checks

import mfa

LAYOUT = {"layout": "bhsd"}


def operands(rng, **sizes):
    return checks.operands(rng, **sizes, **LAYOUT)


# ---------------------------------------------------------------- causal, window, ALiBi


@pytest.mark.parametrize("causal", [None, False, True, "top-left", "bottom-right"])
@pytest.mark.parametrize(
    ("query_length", "key_length"), [(1, 50), (50, 1), (33, 33), (17, 130), (130, 17), (65, 64)]
)
def test_causal(context, rng, causal, query_length, key_length):
    arrays = operands(rng, heads=2, query_length=query_length, key_length=key_length)
    checks.check(context, *arrays, causal=causal, **LAYOUT)


def test_true_means_bottom_right(context, rng):
    arrays = operands(rng, query_length=9, key_length=21)
    bottom_right = mfa.attention(*arrays, causal="bottom-right", context=context, **LAYOUT)
    assert checks.same_bits(mfa.attention(*arrays, causal=True, context=context, **LAYOUT), bottom_right)
    assert not checks.same_bits(
        mfa.attention(*arrays, causal="top-left", context=context, **LAYOUT), bottom_right
    )


def test_more_queries_than_keys_leaves_rows_empty(context, rng):
    arrays = operands(rng, heads=2, query_length=70, key_length=30)
    out, logsumexp = checks.check(context, *arrays, causal="bottom-right", **LAYOUT)
    assert not out[:, :, :40].any()
    assert np.isneginf(logsumexp[:, :, :40]).all()
    assert np.isfinite(logsumexp[:, :, 40:]).all()


@pytest.mark.parametrize("alignment", [None, "top-left", "bottom-right"])
@pytest.mark.parametrize(
    "window", [(0, 0), (0, -1), (-1, 0), (3, 0), (0, 3), (20, 1), (64, 64), (255, 0), (1000, 1000), (-1, -1)]
)
@pytest.mark.parametrize(("query_length", "key_length"), [(40, 40), (13, 300), (300, 13)])
def test_window(context, rng, alignment, window, query_length, key_length):
    arrays = operands(rng, query_length=query_length, key_length=key_length, head_dim=8)
    checks.check(context, *arrays, window=window, alignment=alignment, **LAYOUT)


def test_sliding_window_is_the_last_keys_and_itself(context, rng):
    assert mfa.sliding_window(3) == (2, 0)
    value = np.broadcast_to(np.arange(50, dtype=np.float32)[None, None, :, None], (1, 1, 50, 1))
    zeros = np.zeros((1, 1, 50, 4), np.float32)
    out = mfa.attention(zeros, zeros, value, window=mfa.sliding_window(3), context=context, **LAYOUT)
    np.testing.assert_allclose(out[0, 0, :4, 0], [0, 0.5, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(out[0, 0, 2:, 0], np.arange(1, 49), rtol=1e-6)


def test_window_wholly_outside_the_keys(context, rng):
    """Aligned top-left, rows past the keys see nothing of a window behind them."""
    arrays = operands(rng, query_length=200, key_length=20)
    out, logsumexp = checks.check(context, *arrays, window=(5, 0), alignment="top-left", **LAYOUT)
    assert not out[:, :, 25:].any()
    assert np.isneginf(logsumexp[:, :, 25:]).all()


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"causal": "top-left"}, {"causal": True, "window": (30, 0)}], ids=str
)
def test_alibi(context, rng, per_batch, options):
    arrays = operands(rng, batch=2, heads=4, kv_heads=2, query_length=37, key_length=90)
    slopes = np.float32(2.0) ** -np.arange(1, 9 if per_batch else 5, dtype=np.float32)
    slopes = slopes.reshape(2, 4) if per_batch else slopes
    checks.check(context, *arrays, alibi_slopes=slopes, **options, **LAYOUT)


# ---------------------------------------------------------------- bool and additive masks

MASK_SHAPES = [
    (),
    (70,),
    (1,),
    (50, 70),
    (50, 1),
    (3, 1, 1),
    (1, 50, 70),
    (2, 1, 1, 70),
    (2, 3, 50, 70),
    (1, 1, 1, 1),
]


@pytest.mark.parametrize("shape", MASK_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.dtype(bool), *checks.DTYPES], ids=str)
def test_mask_broadcasts_right_aligned(context, rng, shape, dtype):
    arrays = checks.operands(rng, batch=2, heads=3, query_length=50, key_length=70, head_dim=8)
    mask = rng.standard_normal(shape)
    mask = np.asarray(mask > -0.5 if dtype.kind == "b" else mask).astype(dtype)
    checks.check(context, *arrays, mask=mask)


@pytest.mark.parametrize("dtype", [np.dtype(bool), *checks.DTYPES], ids=str)
def test_expanded_mask_with_zero_strides(context, rng, dtype):
    arrays = operands(rng, batch=2, heads=3, query_length=50, key_length=70)
    row = (rng.standard_normal((2, 1, 1, 70)) > 0).astype(dtype)
    expanded = np.broadcast_to(row, (2, 3, 50, 70))
    assert expanded.strides[1:3] == (0, 0)
    out, _ = checks.check(context, *arrays, mask=expanded, **LAYOUT)
    assert checks.same_bits(mfa.attention(*arrays, mask=row, context=context, **LAYOUT), out)


def test_mask_differs_by_batch_and_head(context, rng):
    """Each (batch, head) may see one key of its own; the output is that key's value."""
    _, _, value = arrays = operands(rng, batch=2, heads=3, query_length=5, key_length=6)
    mask = (np.arange(6) == np.arange(6).reshape(2, 3, 1, 1)) & np.ones((5, 1), bool)
    out = mfa.attention(*arrays, mask=mask, context=context, **LAYOUT)
    for b, h in np.ndindex(2, 3):
        np.testing.assert_allclose(out[b, h], np.tile(value[b, h, 3 * b + h], (5, 1)), rtol=1e-6)


def test_bool_mask_together_with_bias(context, rng):
    arrays = operands(rng, batch=2, heads=2, query_length=40, key_length=65)
    mask = rng.random((2, 1, 40, 65)) < 0.6
    bias = rng.standard_normal((2, 40, 65)).astype(np.float32)
    bias[rng.random(bias.shape) < 0.2] = -np.inf
    checks.check(context, *arrays, mask=mask, bias=bias, causal="top-left", **LAYOUT)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.complex64])
@pytest.mark.parametrize("name", ["mask", "bias"])
def test_mask_of_another_type_is_refused(context, rng, name, dtype):
    arrays = operands(rng)
    with pytest.raises((TypeError, ValueError), match=name):
        mfa.attention(*arrays, **{name: np.ones((8, 8), dtype)}, context=context, **LAYOUT)


def test_bias_is_additive_only(context, rng):
    with pytest.raises((TypeError, ValueError), match="bias"):
        mfa.attention(*operands(rng), bias=np.ones((8, 8), bool), context=context, **LAYOUT)


@pytest.mark.parametrize("shape", [(9,), (7, 8), (3, 8, 8), (1, 1, 1, 8, 8)], ids=str)
def test_mask_that_does_not_broadcast_is_refused(context, rng, shape):
    with pytest.raises(ValueError, match="mask"):
        mfa.attention(*operands(rng), mask=np.ones(shape, bool), context=context, **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_lowest_finite_bias_hides_all_but_is_not_minus_infinity(context, rng, dtype):
    """Masks are often written with finfo.min. A row of nothing else sees all keys alike."""
    query, key, value = operands(rng, query_length=30, key_length=100, dtype=dtype)
    bias = np.zeros((30, 100), dtype)
    bias[:10, 20:] = bias[20:] = -65504 if dtype == np.float16 else -3.38e38
    out, logsumexp = mfa.attention(query, key, value, mask=bias, context=context, return_lse=True, **LAYOUT)
    some = checks.expected(query[:, :, :10], key[:, :, :20], value[:, :, :20], **LAYOUT)
    checks.tolerance.assert_within(out[:, :, :10], some.out, some.out_bound)
    average = np.broadcast_to(value.astype(np.float64).mean(axis=2, keepdims=True), (1, 1, 10, 16))
    if dtype != np.float16:  # beside -65504 a float32 score still counts
        np.testing.assert_allclose(out[:, :, 20:].astype(np.float64), average, atol=2**-7)
        assert (logsumexp[:, :, 20:] < -3e38).all()
    assert np.isfinite(out.astype(np.float64)).all()


# ---------------------------------------------------------------- sinks and rows that see nothing


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_sinks_only_enlarge_the_denominator(context, rng, dtype):
    arrays = operands(rng, heads=4, kv_heads=2, query_length=19, key_length=70)
    sinks = np.array([-60, 0, 3, 60]).astype(dtype)
    out, logsumexp = checks.check(context, *arrays, sinks=sinks, **LAYOUT)
    plain, plain_logsumexp = mfa.attention(*arrays, context=context, return_lse=True, **LAYOUT)
    share = np.exp(plain_logsumexp - logsumexp)[..., None]
    np.testing.assert_allclose(out, plain * share, atol=1e-5)


def test_sinks_count_once_where_keys_are_split(context, rng):
    arrays = operands(rng, heads=2, query_length=1, key_length=8000, head_dim=64)
    checks.check(context, *arrays, sinks=np.array([9.0, 12.0], np.float32), **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("sinks", [None, [0.5, -3.0]], ids=str)
def test_row_without_visible_key(context, rng, dtype, sinks):
    """Hidden by a mask, in a tile that other rows use: output 0, logsumexp that of the sink alone."""
    query, key, value = operands(rng, heads=2, query_length=40, key_length=90, dtype=dtype)
    mask = np.ones((40, 1), bool)
    mask[[0, 7, 39]] = False
    sinks = None if sinks is None else np.array(sinks, np.float32)
    for name, hidden in (("mask", mask), ("bias", np.where(mask, 0, -np.inf).astype(dtype))):
        out, logsumexp = checks.check(context, query, key, value, **{name: hidden}, sinks=sinks, **LAYOUT)
        assert not out[:, :, [0, 7, 39]].astype(np.float32).any()
        expected = np.full((2, 1), -np.inf) if sinks is None else sinks[:, None]
        assert (logsumexp[0][:, [0, 7, 39]] == expected).all()


def test_row_whose_scores_are_all_minus_infinity(context, rng):
    """Visible, but with no score above -inf."""
    query, key, value = operands(rng, query_length=20, key_length=40, head_dim=8)
    query[:, :, 3] = 1
    key[:, :, :, 0] = -np.inf
    query[:, :, :, 0] = np.where(np.arange(20) == 3, 1, 0.5)
    out, logsumexp = checks.check(context, query, key, value, **LAYOUT)
    assert not out.any()
    assert np.isneginf(logsumexp).all()


# ---------------------------------------------------------------- NaN and infinities


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_bad_query_row_reaches_only_itself(context, rng, dtype, bad):
    query, key, value = operands(rng, heads=2, query_length=50, key_length=90, dtype=dtype)
    query[0, 1, 17, 5] = bad
    out, logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **LAYOUT)
    assert np.isnan(out[0, 1, 17].astype(np.float32)).all()
    assert not np.isfinite(logsumexp[0, 1, 17])
    out[0, 1, 17] = logsumexp[0, 1, 17] = query[0, 1, 17] = 0
    clean, clean_logsumexp = mfa.attention(query, key, value, context=context, return_lse=True, **LAYOUT)
    clean[0, 1, 17] = clean_logsumexp[0, 1, 17] = 0
    assert checks.same_bits(out, clean)
    assert checks.same_bits(logsumexp, clean_logsumexp)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("position", [0, 31, 32, 77, 149])
def test_nan_key_reaches_exactly_the_rows_that_see_it(context, rng, dtype, position):
    query, key, value = operands(rng, heads=2, query_length=150, key_length=150, dtype=dtype)
    key[0, 0, position, 3] = np.nan
    for options in ({"causal": "top-left"}, {"window": (20, 9)}, {"mask": rng.random((150, 150)) < 0.5}):
        checks.check(context, query, key, value, **options, **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_bad_mask_value_reaches_only_its_row(context, rng, dtype, bad):
    arrays = operands(rng, heads=2, query_length=40, key_length=90)
    bias = rng.standard_normal((40, 90)).astype(dtype)
    bias[11, 80] = bad
    out, _ = mfa.attention(*arrays, bias=bias, context=context, return_lse=True, **LAYOUT)
    assert (np.isnan(out).all(axis=-1) == (np.arange(40) == 11)).all()
    assert (np.isnan(out).any(axis=-1) == (np.arange(40) == 11)).all()


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_hidden_mask_value_is_not_read(context, rng, dtype):
    """NaN in the bias where the bool mask, the causal mask or the window hides the key."""
    arrays = operands(rng, heads=2, query_length=60, key_length=60)
    bias = rng.standard_normal((60, 60)).astype(dtype)
    visible = rng.random((60, 60)) < 0.5
    hidden_by_mask = np.where(visible, bias, np.array(np.nan, dtype))
    checks.check(context, *arrays, mask=visible, bias=hidden_by_mask, **LAYOUT)
    hidden_by_causal = np.where(np.tri(60, dtype=bool), bias, np.array(np.nan, dtype))
    checks.check(context, *arrays, causal="top-left", bias=hidden_by_causal, **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_nan_value_reaches_every_row_that_sees_it(context, rng, dtype):
    """And only rows near them: it may spread within a tile, but not to the far end of the sequence."""
    query, key, value = operands(rng, query_length=1500, key_length=1500, head_dim=8, dtype=dtype)
    value[0, 0, 700, 2] = np.nan
    out = mfa.attention(query, key, value, window=(10, 10), context=context, **LAYOUT).astype(np.float32)
    assert np.isnan(out[0, 0, 690:711, 2]).all()
    assert np.isfinite(out[..., [0, 1, 3, 4, 5, 6, 7]]).all()
    assert np.isfinite(out[0, 0, :100]).all()
    assert np.isfinite(out[0, 0, 1300:]).all()


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("hide", ["mask", "bias", "window", "window behind", "causal"])
def test_value_that_no_row_sees_is_not_read(context, rng, dtype, bad, hide):
    """Padding beside visible keys of the same tile, as a cache's unused slots are."""
    query, key, value = operands(rng, heads=2, query_length=20, key_length=100, dtype=dtype)
    seen = np.arange(100) >= 80 if hide == "window behind" else np.arange(100) < 20
    options = {
        "mask": {"mask": seen},
        "bias": {"bias": np.where(seen, 0, -np.inf).astype(np.float32)},
        "window": {"window": (-1, 0), "alignment": "top-left"},
        "window behind": {"window": (0, -1), "alignment": "bottom-right"},
        "causal": {"causal": "top-left"},
    }[hide]
    key[:, :, ~seen] = value[:, :, ~seen] = bad
    reference = checks.expected(query, key, value, **options, **LAYOUT)
    result = mfa.attention(query, key, value, **options, return_lse=True, context=context, **LAYOUT)
    checks.assert_matches(result, reference, **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("query_length", [4, 40])
@pytest.mark.parametrize(("first", "last"), [(0, 33), (5, 64), (7, 8), (31, 50)])
def test_padding_of_odd_length_is_not_read(context, rng, dtype, query_length, first, last):
    """Kernels that multiply keys in pairs meet pairs of which one key is padding."""
    query, key, value = operands(rng, heads=2, query_length=query_length, key_length=64, dtype=dtype)
    seen = (np.arange(64) >= first) & (np.arange(64) < last)
    value[:, :, ~seen] = np.nan
    checks.check(context, query, key, value, mask=seen, **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("key_length", [139, 140])
def test_values_before_the_first_window_are_not_read(context, rng, dtype, key_length):
    query, key, value = operands(rng, query_length=40, key_length=key_length, dtype=dtype)
    value[:, :, : key_length - 45] = np.nan
    checks.check(context, query, key, value, window=(5, 0), alignment="bottom-right", **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("query_length", [1, 40])
def test_tiles_that_a_mask_hides_wholly_are_not_read(context, rng, dtype, query_length):
    """However large a tile is: the mask hides 2048 keys, of which the middle 1024 are NaN."""
    query, key, value = operands(rng, heads=2, query_length=query_length, key_length=3072, dtype=dtype)
    seen = (np.arange(3072) < 512) | (np.arange(3072) >= 2560)
    key[:, :, 1024:2048] = value[:, :, 1024:2048] = np.nan
    clean = key.copy(), value.copy()
    for array in clean:
        array[:, :, 1024:2048] = 0
    for hidden in (seen, np.where(seen, 0, -np.inf).astype(dtype)):
        result = mfa.attention(query, key, value, mask=hidden, return_lse=True, context=context, **LAYOUT)
        checks.assert_matches(result, checks.expected(query, *clean, mask=hidden, **LAYOUT), **LAYOUT)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_infinite_value_reaches_the_rows_that_see_it(context, rng, dtype):
    query, key, value = operands(rng, query_length=6, key_length=20, dtype=dtype)
    value[0, 0, 4, 1], value[0, 0, 5, 2] = np.inf, -np.inf
    out = mfa.attention(query, key, value, context=context, **LAYOUT).astype(np.float32)
    assert (out[..., 1] == np.inf).all()
    assert (out[..., 2] == -np.inf).all()
    assert np.isfinite(out[..., [0, *range(3, 16)]]).all()


@pytest.mark.parametrize("slope", [np.nan, np.inf])
def test_minus_infinity_hides_whatever_the_slope(context, rng, slope):
    arrays = operands(rng, query_length=6, key_length=9)
    bias = np.full((6, 9), -np.inf, np.float32)
    slopes = np.array([slope], np.float32)
    out, logsumexp = mfa.attention(
        *arrays, mask=bias, alibi_slopes=slopes, return_lse=True, context=context, **LAYOUT
    )
    assert (out == 0).all()
    assert (logsumexp == -np.inf).all()


@pytest.mark.parametrize("key_length", [0, 9])
def test_sink_that_is_nan_reaches_the_logsumexp(context, rng, key_length):
    arrays = operands(rng, query_length=6, key_length=key_length)
    sinks = np.array([np.nan], np.float32)
    _, logsumexp = mfa.attention(*arrays, sinks=sinks, return_lse=True, context=context, **LAYOUT)
    assert np.isnan(logsumexp).all()

"""compute_mode "int8" where rounding loses nothing: queries that are whole numbers up to 127 times a power of
two, and weights that are whole parts of 255. Scores, and then sums, are those of exact products."""

import numpy as np
import pytest
from support.random_codes import RANGES, packed

import mfa

HEADS, KV_HEADS, DIM, VALUE_DIM = 4, 2, 40, 33
ROWS = pytest.mark.parametrize("queries", [70, 3], ids=["tiles", "decode"])
GRANULARITIES = [(0, 0), (1, 0), (32, 0), (5, 0), (0, 1), (0, 32)]


def whole_codes(
    rng, batches, length, dim, precision="int8", *, rows=1, columns=0, zero_points=False, mean_of=None
):  # fmt: skip
    """Codes with scales that are powers of two."""
    lowest, highest = RANGES[precision]
    lines = -(-length // rows) if rows else 1
    scales_shape = (batches, lines, KV_HEADS, -(-dim // columns) if columns else 1)
    scales = np.float32(2) ** rng.integers(-8, -4, scales_shape) / (highest - lowest + 1)
    zeros = None
    if zero_points or precision.startswith("u"):
        zeros = rng.integers(lowest, highest + 1, scales_shape).astype(np.int32)
    codes = packed(rng.integers(lowest, highest + 1, (batches, length, KV_HEADS, dim)), precision)
    mean = None if mean_of is None else rng.standard_normal((mean_of, 1, KV_HEADS, dim)).astype(np.float32)
    return mfa.QuantizedTensor(
        codes, scales.astype(np.float32), zeros, mean, precision=precision, rows=rows, columns=columns,
        shape=(batches, length, KV_HEADS, dim),
    )  # fmt: skip


def whole_queries(rng, batch, queries, key):
    """As those that are rounded, once the scales of columns have gone into them."""
    whole = rng.integers(-127, 128, (batch, queries, HEADS, DIM)).astype(np.float32)
    whole[..., 0] = 127
    if key.columns == 0:
        return whole / 32
    columns = np.repeat(key.scales[:, :1], key.columns, axis=3)[..., :DIM]
    return (whole / np.repeat(columns, HEADS // KV_HEADS, axis=2) / 2**19).astype(np.float32)


def check_scores(context, query, key, value, dtype=np.float32, **options):
    options = {**options, "context": context, "return_lse": True}
    query = query.astype(dtype)
    exact, expected = mfa.attention(query, key, value, **options)
    out, lse = mfa.attention(query, key, value, compute_mode="int8", **options)
    np.testing.assert_allclose(lse, expected, rtol=2e-6, atol=4e-6)
    error = np.linalg.norm(out.astype(np.float64) - exact) / np.linalg.norm(exact.astype(np.float64))
    assert error < 1.2e-2
    return out


@ROWS
@pytest.mark.parametrize("precision", RANGES)
@pytest.mark.parametrize(("rows", "columns"), GRANULARITIES)
def test_scores(context, rng, queries, precision, rows, columns):
    key = whole_codes(rng, 2, 150, DIM, precision, rows=rows, columns=columns, zero_points=True, mean_of=2)
    value = whole_codes(rng, 2, 150, VALUE_DIM, precision, rows=rows, columns=columns)
    check_scores(context, whole_queries(rng, 2, queries, key), key, value)


@ROWS
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(
    "features",
    [
        {"causal": "bottom-right", "window": (40, 0)},
        {"softcap": 2.0, "alibi_slopes": np.linspace(0.1, 0.4, HEADS, dtype=np.float32)},
        {"mask": np.arange(150) % 7 > 1, "sinks": np.linspace(-1, 1, HEADS, dtype=np.float32)},
        {"bias": np.linspace(-1, 1, 150, dtype=np.float32)},
        {"dropout_p": 0.3, "dropout_seed": 5},
        {"attention_chunk": 50, "causal": True},
    ],
    ids=lambda features: next(iter(features)),
)
def test_features(context, rng, queries, dtype, features):
    key = whole_codes(rng, 2, 150, DIM, "uint8", mean_of=None if dtype == np.float16 else 1)
    value = whole_codes(rng, 2, 150, VALUE_DIM, rows=32)
    features = {
        name: np.broadcast_to(x, (queries, 150)) if name in ("mask", "bias") else x
        for name, x in features.items()
    }
    check_scores(context, whole_queries(rng, 2, queries, key), key, value, dtype, **features)


@pytest.mark.parametrize("columns", [0, 1])
def test_packed_rows(context, rng, columns):
    key = whole_codes(rng, 1, 300, DIM, rows=0 if columns else 5, columns=columns)
    value = whole_codes(rng, 1, 300, VALUE_DIM, rows=3)
    query = whole_queries(rng, 1, 140, key)[0]
    key, value = (
        mfa.QuantizedTensor(x.data[0], x.scales[0], rows=x.rows, columns=x.columns) for x in (key, value)
    )
    options = {
        "cu_seqlens_q": np.array([0, 50, 50, 130], np.int32),
        "cu_seqlens_k": np.array([0, 45, 160, 290], np.int32),
    }
    out = check_scores(context, query, key, value, causal=True, **options)
    assert not out[130:].any()


@ROWS
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_pages(context, rng, queries, rows):
    """Of which each has scales of its own, and one is nobody's."""
    key = whole_codes(rng, 11, 16, DIM, rows=rows, mean_of=2)
    value = whole_codes(rng, 11, 16, VALUE_DIM, rows=rows)
    key.scales[7] = value.scales[7] = np.nan
    query = rng.integers(-127, 128, (2, queries, HEADS, DIM)).astype(np.float32) / 32
    query[..., 0] = 127 / 32
    pages = {
        "page_table": np.array([[3, 9, 1, 0, 7], [4, 2, 10, 5, 6]], np.int32),
        "seqused_k": np.array([50, 79], np.int32),
    }
    check_scores(context, query, key, value, causal=True, **pages)


@ROWS
@pytest.mark.parametrize("columns", [0, 1])
def test_sums(context, rng, queries, columns):
    """Where all keys weigh the same, and weights take in scales that are whole parts of the largest."""
    key = whole_codes(rng, 2, 150, DIM)
    value = whole_codes(rng, 2, 150, VALUE_DIM, "uint8", rows=0 if columns else 1, columns=columns)
    if columns == 0:
        value.scales[:] = rng.integers(1, 256, value.scales.shape) / np.float32(2**14)
        value.scales[:, ::8] = 255 / 2**14
    query = np.zeros((2, queries, HEADS, DIM), np.float32)
    exact = mfa.attention(query, key, value, context=context)
    out = mfa.attention(query, key, value, compute_mode="int8", context=context)
    np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


def test_rows_of_zeros_and_rows_that_are_not_finite(context, rng):
    """Each is a row's own affair."""
    key, value = whole_codes(rng, 2, 150, DIM), whole_codes(rng, 2, 150, VALUE_DIM)
    query = whole_queries(rng, 2, 70, key)
    expected = mfa.attention(query, key, value, compute_mode="int8", context=context)
    query[0, 3, 1], query[0, 5, 2, 7], query[1, 9, 3, 4] = 0, np.nan, np.inf
    out = mfa.attention(query, key, value, compute_mode="int8", context=context)
    np.testing.assert_allclose(
        out[0, 3, 1], mfa.attention(query, key, value, context=context)[0, 3, 1], atol=2e-3
    )
    assert np.isnan(out[0, 5, 2]).all()
    assert np.isnan(out[1, 9, 3]).all()
    out[0, 3, 1], out[0, 5, 2], out[1, 9, 3] = expected[0, 3, 1], expected[0, 5, 2], expected[1, 9, 3]
    assert np.array_equal(out, expected)

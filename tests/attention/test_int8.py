"""Products of codes in integers are near the float64 oracle of what codes stand for, in relative L2 error."""

import numpy as np
import pytest
from support import checks, quantizing
from support.backends import PRESENT
from support.quantizing import GRANULARITIES, PRECISIONS

import mfa

pytestmark = pytest.mark.cpu

ANY_PRECISION = pytest.mark.parametrize("precision", PRECISIONS)
ANY_GRANULARITY = pytest.mark.parametrize("granularity", [*GRANULARITIES, "columns"])
# Few rows read codes where they lie, more of them pack words of four.
ANY_ROWS = pytest.mark.parametrize("rows", [1, 3, 40])
NORMAL, OUTLIERS = 1.2e-2, 2e-2  # what rounding queries and weights to 8 bits may cost


def shared_by(granularity):
    """Rows and columns; "columns" is scales that no factor of a row or column can stand for."""
    rows, columns = GRANULARITIES.get(granularity, (16, 1))
    return {"rows": rows, "columns": columns}


def operands(rng, rows, keys, *, heads=4, kv_heads=2, head_dim=72, value_dim=41, batch=2, **options):
    return checks.operands(
        rng, batch=batch, heads=heads, kv_heads=kv_heads, query_length=rows, key_length=keys,
        head_dim=head_dim, value_dim=value_dim, dtype=checks.FLOAT32, **options,
    )  # fmt: skip


def attention(context, query, key, value, **options):
    return mfa.attention(query, key, value, context=context, return_lse=True, compute_mode="int8", **options)


def error(out, expected):
    """Relative to all that is expected; where that is 0, `out` has to be, too."""
    size = np.linalg.norm(expected)
    return np.linalg.norm(out - expected) / size if size > 0 else np.linalg.norm(out)


def check(context, query, key, value, budget=NORMAL, **options):
    out, lse = attention(context, query, key, value, **options)
    reference = checks.expected(query, quantizing.real(key), quantizing.real(value), **options)
    assert error(checks.heads_first(out, "bshd"), reference.out) <= budget
    hidden = np.isneginf(reference.logsumexp)
    np.testing.assert_array_equal(np.isneginf(lse), hidden)
    np.testing.assert_allclose(lse[~hidden], reference.logsumexp[~hidden], rtol=0, atol=0.05)
    return out, lse


# ------------------------------------------------------ what codes stand for


@ANY_PRECISION
@ANY_GRANULARITY
@ANY_ROWS
def test_every_format_and_granularity(context, rng, precision, granularity, rows):
    query, key, value = operands(rng, rows, 300)
    shared = shared_by(granularity)
    key = quantizing.quantize(key + 0.5, precision, **shared, symmetric=False)
    value = quantizing.quantize(value + 0.5, precision, **shared, scale_dtype=np.float16)
    check(context, query, key, value, OUTLIERS if granularity == "columns" else NORMAL, causal="bottom-right")


@ANY_PRECISION
@ANY_GRANULARITY
@ANY_ROWS
def test_zero_points_of_values(context, rng, precision, granularity, rows):
    query, key, value = operands(rng, rows, 140)
    key = quantizing.quantize(key, precision, **shared_by(granularity))
    value = quantizing.quantize(value + 3, precision, **shared_by(granularity), symmetric=False)
    check(context, query, key, value)


@ANY_GRANULARITY
@ANY_ROWS
def test_mean_counts_in_every_score(context, rng, granularity, rows):
    query, key, value = operands(rng, rows, 140)
    key = key + 2 * rng.standard_normal((2, 1, 2, 72))
    key = quantizing.quantize(key, **shared_by(granularity), mean=key.mean(axis=1, keepdims=True))
    sinks = rng.standard_normal(4).astype(np.float32)
    check(context, query, key, quantizing.quantize(value), OUTLIERS, softcap=20.0, sinks=sinks)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("granularity", ["token", "channel", "groups"])
@pytest.mark.parametrize("rows", [1, 70])
def test_budget_of_normal_numbers(context, rng, head_dim, granularity, rows):
    query, key, value = operands(
        rng, rows, 2048, batch=1, heads=4, kv_heads=1, head_dim=head_dim, value_dim=head_dim
    )
    key, value = (quantizing.quantize(x, **shared_by(granularity)) for x in (key, value))
    check(context, query, key, value)


@pytest.mark.parametrize("granularity", ["token", "channel"])
@pytest.mark.parametrize("rows", [1, 70])
def test_budget_with_outliers(context, rng, granularity, rows):
    """A few channels of keys lie far from 0, which smooth-K takes out."""
    query, key, value = operands(rng, rows, 2048, batch=1, heads=2, kv_heads=1, head_dim=128, value_dim=128)
    key[..., ::16] += 8
    key = quantizing.quantize(key, **shared_by(granularity), mean=key.mean(axis=1, keepdims=True))
    check(context, query, key, quantizing.quantize(value), OUTLIERS)


@ANY_ROWS
def test_scales_of_values_far_apart(context, rng, rows):
    """Weights are rounded together with the scales of rows, so that neither drowns the other."""
    query, key, value = operands(rng, rows, 300)
    value = value * 10.0 ** rng.uniform(-3, 0, (2, 300, 1, 1))
    check(context, query, quantizing.quantize(key), quantizing.quantize(value))


# ------------------------------------------------------ sizes


@ANY_ROWS
@pytest.mark.parametrize(
    "keys", [0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 127, 128, 129, 511, 512, 513, 1100]
)
def test_numbers_of_keys(context, rng, rows, keys):
    query, key, value = operands(rng, rows, keys, batch=1, head_dim=64, value_dim=64)
    key, value = (quantizing.quantize(x, "uint8", rows=32) for x in (key, value))
    check(context, query, key, value, OUTLIERS)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 8, 15, 17, 31, 33, 63, 64, 65, 100, 128, 130, 256])
@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("columns", [0, 32])
def test_head_dims(context, rng, dim, precision, columns):
    for rows in (0, 2, 30):
        query, key, value = operands(rng, rows, 150, batch=1, head_dim=dim, value_dim=dim)
        key, value = (quantizing.quantize(x, precision, columns=columns) for x in (key, value))
        check(context, query, key, value, OUTLIERS)


@ANY_ROWS
@pytest.mark.parametrize("group", [1, 3, 5, 16])
def test_grouped_heads(context, rng, rows, group):
    query, key, value = operands(rng, rows, 140, heads=2 * group)
    key, value = (quantizing.quantize(x) for x in (key, value))
    check(context, query, key, value)


# ------------------------------------------------------ what hides keys and changes scores


def masked(rng, rows):
    mask = rng.random((1, 1, rows, 300)) < 0.5
    mask[..., 0, :] = False
    return {"mask": mask}


OPTIONS = {
    "causal": lambda rng, rows: {"causal": "top-left"},
    "window": lambda rng, rows: {"window": (33, 5), "alignment": "bottom-right"},
    "chunk": lambda rng, rows: {"attention_chunk": 37, "alignment": "bottom-right"},
    "mask": masked,
    "bias": lambda rng, rows: {"bias": rng.standard_normal((2, 1, rows, 300)).astype(np.float32)},
    "alibi": lambda rng, rows: {"alibi_slopes": rng.random(4).astype(np.float32)},
    "softcap": lambda rng, rows: {"softcap": 1.5},
    "sinks": lambda rng, rows: {"sinks": rng.standard_normal(4).astype(np.float32)},
    "dropout": lambda rng, rows: {"dropout_p": 0.3, "dropout_seed": 7},
    "negative scale": lambda rng, rows: {"softmax_scale": -0.1},
    "one key": lambda rng, rows: {"window": (0, 0), "alignment": "bottom-right"},
    "factors": lambda rng, rows: {
        name: rng.uniform(0.5, 2, (2, 2)).astype(np.float32)
        for name in ("q_descale", "k_descale", "v_descale")
    },
}


@pytest.mark.parametrize("name", OPTIONS)
@ANY_ROWS
def test_options(context, rng, name, rows):
    query, key, value = operands(rng, rows, 300)
    key, value = (quantizing.quantize(x, symmetric=False) for x in (key, value))
    check(context, query, key, value, OUTLIERS, **OPTIONS[name](rng, rows))


@ANY_ROWS
def test_rows_that_see_nothing(context, rng, rows):
    query, key, value = operands(rng, rows, 50)
    key, value = (quantizing.quantize(x, "uint8") for x in (key, value))
    out, lse = check(context, query, key, value, mask=np.zeros((1, 1, 1, 50), bool))
    assert not out.any()
    assert np.isneginf(lse).all()


@ANY_ROWS
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row(context, rng, rows, poison):
    query, key, value = operands(rng, rows, 90)
    key, value = (quantizing.quantize(x) for x in (key, value))
    expected, _ = attention(context, query, key, value)
    query[1, -1, 2, 5] = poison
    out, lse = attention(context, query, key, value)
    assert np.isnan(out[1, -1, 2]).all()
    assert np.isnan(lse[1, 2, -1])
    out[1, -1, 2] = expected[1, -1, 2]
    assert checks.same_bits(out, expected)


# ------------------------------------------------------ where they lie


@ANY_ROWS
@ANY_GRANULARITY
def test_strides_change_no_bit(context, rng, rows, granularity):
    query, key, value = operands(rng, rows, 70)
    key, value = (quantizing.quantize(x, symmetric=False, **shared_by(granularity)) for x in (key, value))
    expected = attention(context, query, key, value)

    def apart(array):
        buffer = np.zeros((*array.shape[:2], 2 * array.shape[2], 3 * array.shape[3]), array.dtype)
        view = buffer[:, ::-1, ::2, ::3]
        view[...] = array
        return view

    strided = [
        quantizing.in_memory(x, [apart(a) for a in (x.data, x.scales, x.zero_points)]) for x in (key, value)
    ]
    for found, wanted in zip(attention(context, query, *strided), expected, strict=True):
        assert checks.same_bits(found, wanted)


@ANY_ROWS
@pytest.mark.parametrize("columns", [0, 32, 1])
def test_what_no_sequence_has_is_not_read(context, rng, rows, columns):
    query, key, value = operands(rng, rows, 70)
    key, value = (quantizing.quantize(x, columns=columns, symmetric=False) for x in (key, value))
    lengths, padding = np.array([33, 70], np.int32), np.array([3, 5], np.int32)
    options = {"seqused_k": lengths, "leftpad_k": padding, "causal": True}
    expected, _ = check(context, query, key, value, OUTLIERS, **options)
    at = np.arange(70)
    used = (at >= padding[:, None]) & (at < lengths[:, None])
    poisoned = []
    for x in (key, value):
        scales = np.where(used[..., None, None], x.scales, np.nan).astype(np.float32)
        zeros = np.where(used[..., None, None], x.zero_points, 2**30).astype(np.int32)
        poisoned.append(quantizing.in_memory(x, (x.data, scales, zeros)))
    assert checks.same_bits(attention(context, query, *poisoned, **options)[0], expected)


@ANY_PRECISION
@ANY_ROWS
@pytest.mark.parametrize("page_size", [1, 7, 64])
@pytest.mark.parametrize("granularity", ["token", "groups"])
def test_pages_equal_contiguous_to_the_bit(context, rng, precision, rows, page_size, granularity):
    query, key, value = operands(rng, rows, 70)
    shared = shared_by(granularity)
    key, value = (quantizing.quantize(x, precision, symmetric=False, **shared) for x in (key, value))
    lengths = np.array([70, 33], np.int32)
    table = rng.permutation(2 * -(-70 // page_size)).reshape(2, -1).astype(np.int32)
    pages = [quantizing.paged(x, table, lengths, page_size) for x in (key, value)]
    options = {"seqused_k": lengths, "causal": True}
    expected = attention(context, query, key, value, **options)
    for found, wanted in zip(
        attention(context, query, *pages, page_table=table, **options), expected, strict=True
    ):
        assert checks.same_bits(found, wanted)


@ANY_ROWS
@ANY_GRANULARITY
def test_scales_of_pages(context, rng, rows, granularity):
    """Those of several rows belong to a page."""
    query, key, value = operands(rng, rows, 48)
    pages = [quantizing.quantize(x.reshape(4, 24, 2, -1), **shared_by(granularity)) for x in (key, value)]
    options = {"page_table": np.array([[2, 0], [3, 1]], np.int32), "seqused_k": np.array([48, 30], np.int32)}
    check(context, query, *pages, OUTLIERS, **options)


@ANY_ROWS
@pytest.mark.parametrize("scaled", ["key", "value"])
def test_scales_of_rows_side_by_side_end_inside_a_vector(context, rng, rows, scaled):
    """A page ends one row into the last vector of a block of keys, with scales of other groups behind it."""
    query, key, value = operands(rng, rows, 532, batch=1, heads=1, kv_heads=1, head_dim=64, value_dim=64)
    pages = {
        name: quantizing.quantize((x + 1).reshape(76, 7, 1, 64), columns=32, symmetric=False)
        for name, x in (("key", key), ("value", value))
    }
    options = {
        "page_table": np.arange(76, dtype=np.int32)[None],
        "seqused_k": np.array([530], np.int32),
    }
    expected = attention(context, query, **pages, **options)
    x = pages[scaled]
    scales = np.ascontiguousarray(x.scales.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    pages[scaled] = quantizing.in_memory(x, (x.data, scales, x.zero_points))
    for found, wanted in zip(attention(context, query, **pages, **options), expected, strict=True):
        assert checks.same_bits(found, wanted)


@ANY_ROWS
@pytest.mark.parametrize("granularity", ["token", "block", "both"])
def test_many_keys_are_split(context, rng, rows, granularity):
    query, key, value = operands(rng, rows, 2300, batch=1, heads=2, kv_heads=1)
    key, value = (
        quantizing.quantize(x, "int4", symmetric=False, **shared_by(granularity)) for x in (key, value)
    )
    check(context, query, key, value, dropout_p=0.3, dropout_seed=5)


# ------------------------------------------------------ kernels


@pytest.mark.parametrize("backend_now", [b for b in PRESENT if b.is_cpu], ids=lambda b: b.name)
@ANY_PRECISION
@ANY_ROWS
def test_instruction_sets_agree(backend_now, rng, precision, rows):
    """Sums of codes are the same; a weight here and there is rounded the other way."""
    query, key, value = operands(rng, rows, 300)
    key, value = (quantizing.quantize(x, precision, columns=32, symmetric=False) for x in (key, value))
    with backend_now.context() as context, mfa.Context(backend="cpu", cpu_isa="scalar") as scalar:
        plan = mfa.plan(query, key, value, context=context, compute_mode="int8")
        assert plan.kernel.startswith("forward_int8_")
        out, lse = attention(context, query, key, value)
        expected, expected_lse = attention(scalar, query, key, value)
    assert error(out, expected) <= 1e-4
    np.testing.assert_allclose(lse, expected_lse, rtol=0, atol=1e-5)

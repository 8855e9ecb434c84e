"""New rows for a cache of codes: written as mfa.quantize does, and then a call over a cache that has them."""

import numpy as np
import pytest
from support import checks
from support.random_codes import RANGES, random_codes

import mfa

BATCH, HEADS, KV_HEADS, DIM, VALUE_DIM, CAPACITY, NEW, PAGE = 3, 4, 2, 40, 33, 48, 5, 8
LENGTHS = np.array([0, 17, 41], np.int32)
ANY_CODES = pytest.mark.parametrize("precision", RANGES)
ANY_DTYPE = pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)


class Call:
    def __init__(self, rng, precision, dtype, place="own", *, mean=False, **scaled):
        def random(*shape):
            return rng.standard_normal(shape).astype(dtype)

        self.query = random(BATCH, 1, HEADS, DIM)
        self.k_new, self.v_new = random(BATCH, NEW, KV_HEADS, DIM), random(BATCH, NEW, KV_HEADS, VALUE_DIM)
        self.lists = {}
        self.rows = [[(b, LENGTHS[b] + i) for i in range(NEW)] for b in range(BATCH)]
        stored = (BATCH, CAPACITY)
        if place == "pages":
            table = rng.permutation(BATCH * CAPACITY // PAGE).reshape(BATCH, -1).astype(np.int32)
            self.lists["page_table"] = table
            self.rows = [[(table[b, row // PAGE], row % PAGE) for b, row in rows] for rows in self.rows]
            stored = (table.size, PAGE)
        elif place == "batches":
            self.lists["cache_batch_idx"] = np.array([3, 0, 2], np.int32)
            self.rows = [[([3, 0, 2][b], row) for b, row in rows] for rows in self.rows]
            stored = (4, CAPACITY)
        means = BATCH if mean else None
        self.key = random_codes(rng, (*stored, KV_HEADS, DIM), precision, mean_of=means, **scaled)
        self.value = random_codes(rng, (*stored, KV_HEADS, VALUE_DIM), precision, **scaled)

    def run(self, context, **options):
        return mfa.attention(
            self.query, self.key, self.value, seqused_k=LENGTHS, k_new=self.k_new, v_new=self.v_new,
            causal=True, context=context, **self.lists, **options,
        )  # fmt: skip

    def check_rows(self, cache, new, before):
        """New rows are as expected, and no others have changed. Returns where they lie."""
        where = tuple(np.array(self.rows).reshape(-1, 2).T)
        expected = quantized(cache, new)
        for name in ("data", "scales", "zero_points"):
            found, wanted, old = (getattr(x, name) for x in (cache, expected, before))
            if found is None:
                continue
            old = old.copy()
            if name == "data" or cache.rows == 1:
                old[where] = wanted.reshape(-1, *wanted.shape[2:])
            assert np.array_equal(found, old), name


def quantized(cache, new):
    """What mfa.quantize makes of the new rows, less the mean of their sequence."""
    rows = np.asarray(new, np.float32)
    if cache.mean is not None:
        rows = rows - cache.mean
    given = {}
    if cache.rows == 0:
        given = {
            "scale": cache.scales[:1],
            "zero_point": None if cache.zero_points is None else cache.zero_points[:1],
        }
    return mfa.quantize(
        rows, cache.precision, (cache.rows, cache.columns), symmetric=cache.zero_points is None,
        scale_dtype=str(cache.scales.dtype), saturate=True, **given,
    )  # fmt: skip


def copied(cache):
    arrays = (
        None if x is None else x.copy() for x in (cache.data, cache.scales, cache.zero_points, cache.mean)
    )
    return mfa.QuantizedTensor(
        *arrays, precision=cache.precision, rows=cache.rows, columns=cache.columns, shape=cache.shape
    )


def check(context, call, *, new_key=None, query=None, **options):
    before = [copied(x) for x in (call.key, call.value)]
    result = call.run(context, **options)
    call.check_rows(call.key, call.k_new if new_key is None else new_key, before[0])
    call.check_rows(call.value, call.v_new, before[1])
    expected = mfa.attention(
        call.query if query is None else query, call.key, call.value, seqused_k=LENGTHS + NEW, causal=True,
        context=context, **call.lists,
    )  # fmt: skip
    assert checks.same_bits(result, expected)


@ANY_CODES
@ANY_DTYPE
@pytest.mark.parametrize("place", ["own", "batches", "pages"])
def test_each_row_has_scales_of_its_own(context, rng, precision, dtype, place):
    check(context, Call(rng, precision, dtype, place))


@ANY_CODES
@pytest.mark.parametrize("columns", [0, 1, 32])
@pytest.mark.parametrize("scale_dtype", [np.float32, np.float16])
def test_groups_of_columns_and_zero_points(context, rng, precision, columns, scale_dtype):
    check(
        context, Call(rng, precision, np.float32, columns=columns, zero_points=True, scale_dtype=scale_dtype)
    )


@ANY_CODES
def test_mean_of_the_sequence_is_taken_off(context, rng, precision):
    check(context, Call(rng, precision, np.float32, "batches", mean=True, zero_points=True))


@ANY_CODES
@ANY_DTYPE
@pytest.mark.parametrize("columns", [0, 1, 32])
def test_scales_that_are_there_serve_new_rows(context, rng, precision, dtype, columns):
    """One for all heads and batches, so that what mfa.quantize makes of new rows is given the same."""
    call = Call(rng, precision, dtype, rows=0, columns=columns, zero_points=True)
    for cache in (call.key, call.value):
        cache.scales[:] = cache.scales[:1]
        cache.zero_points[:] = cache.zero_points[:1]
    call.k_new[0, 0, 0, :3] = np.inf, -np.inf, np.nan
    call.v_new[0, 0, 0, :3] = 1e4, -1e4, 0
    check(context, call)


@pytest.mark.parametrize("interleaved", [False, True])
def test_new_keys_are_turned_first(context, rng, interleaved):
    call = Call(rng, "int8", np.float32)
    angles = rng.integers(0, 4, (CAPACITY, 8))  # quarters, whose cosines and sines are exact
    cos, sin = np.array([1, 0, -1, 0], np.float32)[angles], np.array([0, 1, 0, -1], np.float32)[angles]

    def turned(rows):
        result = rows.copy()
        first, second = (slice(0, 16, 2), slice(1, 16, 2)) if interleaved else (slice(0, 8), slice(8, 16))
        for b, length in enumerate(LENGTHS):
            at = slice(length, length + rows.shape[1])
            x, y, c, s = rows[b, ..., first], rows[b, ..., second], cos[at, None], sin[at, None]
            result[b, ..., first], result[b, ..., second] = x * c - y * s, x * s + y * c
        return result

    check(
        context, call, new_key=turned(call.k_new), query=turned(call.query), rotary_cos=cos, rotary_sin=sin,
        rotary_interleaved=interleaved,
    )  # fmt: skip


def test_what_is_not_finite_saturates(context, rng):
    call = Call(rng, "int8", np.float32, scale_dtype=np.float16)
    call.k_new[1, 2, 0, :4] = np.nan, np.inf, -np.inf, -127
    call.k_new[1, 2, 0, 4:] = 0
    call.v_new[0, 0, 1] = np.nan
    check(context, call)
    b, row = call.rows[1][2]
    assert call.key.data[b, row, 0, :5].tolist() == [0, 127, -127, -127, 0]
    assert call.key.scales[b, row, 0] == 1
    call.k_new[2, 4, 1, :2] = 3e38, -1e6  # whose scale no float16 is
    call.run(context)
    b, row = call.rows[2][4]
    assert call.key.scales[b, row, 1] == 65504
    assert call.key.data[b, row, 1, :2].tolist() == [127, -15]


@pytest.mark.cpu
def test_either_may_have_codes(context, rng):
    call = Call(rng, "int4", np.float16)
    plain = rng.standard_normal(call.value.shape).astype(np.float16)
    before = copied(call.key)
    call.value = plain
    call.run(context)
    call.check_rows(call.key, call.k_new, before)
    assert np.array_equal(plain[tuple(np.array(call.rows[0]).T)], call.v_new[0])
    call = Call(rng, "int4", np.float16)
    before, call.key = copied(call.value), rng.standard_normal(call.key.shape).astype(np.float16)
    call.run(context)
    call.check_rows(call.value, call.v_new, before)

"""New rows for the cache: as a call over a cache that holds them, of queries that are turned already.

Values and angles are such that turning them is exact in every precision.
"""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from support import checks, sequence_strategies

import mfa

BATCH, HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM, PAGE = 3, 4, 2, 24, 16, 8
CAPACITY = 48


def grid(rng, *shape, dtype):
    return (rng.integers(-16, 17, shape) / 16).astype(dtype)


def turned(rows, positions, cosines, sines, interleaved):
    """(..., N, H, D) rows, turned by the angles of N positions."""
    pairs = cosines.shape[1]
    result = rows.astype(np.float32)
    first = slice(0, 2 * pairs, 2) if interleaved else slice(0, pairs)
    second = slice(1, 2 * pairs, 2) if interleaved else slice(pairs, 2 * pairs)
    x, y = result[..., first].copy(), result[..., second].copy()
    cosine, sine = (table[positions].astype(np.float32)[:, None, :] for table in (cosines, sines))
    result[..., first] = x * cosine - y * sine
    result[..., second] = x * sine + y * cosine
    return result.astype(rows.dtype)


class Call:
    """Arrays of one call, and those of the call that it has to equal."""

    def __init__(
        self, rng, dtype, place, queries, *, pairs=0, interleaved=False, causal=True, per_sequence=False
    ):
        self.lengths = rng.integers(0, CAPACITY - 6, BATCH).astype(np.int32)
        self.new = 5
        self.query = grid(rng, BATCH, queries, HEADS, HEAD_DIM, dtype=dtype)
        self.k_new = grid(rng, BATCH, self.new, KV_HEADS, HEAD_DIM, dtype=dtype)
        self.v_new = grid(rng, BATCH, self.new, KV_HEADS, VALUE_DIM, dtype=dtype)
        self.lists = {}
        rows = (BATCH, CAPACITY)
        if place == "pages":
            table = rng.permutation(BATCH * CAPACITY // PAGE).reshape(BATCH, -1).astype(np.int32)
            self.lists["page_table"] = table
            rows = (table.size, PAGE)
        elif place == "batches":
            self.lists["cache_batch_idx"] = np.array([3, 0, 2], np.int32)
            rows = (4, CAPACITY)
        self.key = grid(rng, *rows, KV_HEADS, HEAD_DIM, dtype=dtype)
        self.value = grid(rng, *rows, KV_HEADS, VALUE_DIM, dtype=dtype)
        self.features = {"causal": causal}
        self.rotary = {}
        self.expected_query = self.query
        k_turned = self.k_new
        if pairs:
            tables = rng.choice([-1, -0.5, 0, 0.5, 1], (2, CAPACITY + 10, pairs)).astype(dtype)
            positions = rng.integers(0, 9, BATCH).astype(np.int32) if per_sequence else self.lengths
            self.rotary = {
                "rotary_cos": tables[0], "rotary_sin": tables[1], "rotary_interleaved": interleaved,
                "rotary_positions": positions if per_sequence else None,
            }  # fmt: skip
            steps = np.arange(queries) if causal else np.zeros(queries, int)
            turn = (*tables, interleaved)
            self.expected_query = np.stack(
                [turned(rows, at + steps, *turn) for rows, at in zip(self.query, positions, strict=True)]
            )
            k_turned = np.stack(
                [
                    turned(r, at + np.arange(self.new), *turn)
                    for r, at in zip(self.k_new, positions, strict=True)
                ]
            )
        self.expected_key, self.expected_value = self.key.copy(), self.value.copy()
        for b in range(BATCH):
            for i in range(self.new):
                at = self.row_of(b, self.lengths[b] + i)
                self.expected_key[at], self.expected_value[at] = k_turned[b, i], self.v_new[b, i]

    def row_of(self, b, row):
        if "page_table" in self.lists:
            return self.lists["page_table"][b, row // PAGE], row % PAGE
        return self.lists["cache_batch_idx"][b] if self.lists else b, row

    def run(self, context, function=mfa.attention):
        return function(
            self.query, self.key, self.value, seqused_k=self.lengths, k_new=self.k_new, v_new=self.v_new,
            context=context, **self.lists, **self.rotary, **self.features,
        )  # fmt: skip

    def run_expected(self, context):
        return mfa.attention(
            self.expected_query, self.expected_key, self.expected_value, seqused_k=self.lengths + self.new,
            context=context, **self.lists, **self.features,
        )  # fmt: skip

    def check(self, context):
        out = self.run(context)
        assert checks.same_bits(self.key, self.expected_key)
        assert checks.same_bits(self.value, self.expected_value)
        assert checks.same_bits(out, self.run_expected(context))


@pytest.mark.parametrize("queries", [2, 17])
@pytest.mark.parametrize("place", ["own", "pages", "batches"])
def test_appended_rows_are_in_the_cache(context, rng, place, queries):
    Call(rng, np.float32, place, queries).check(context)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_rotary(context, rng, dtype, interleaved, causal):
    """All columns or some, of queries that are decoded and that are tiled."""
    Call(rng, dtype, "pages", 3, pairs=HEAD_DIM // 2, interleaved=interleaved, causal=causal).check(context)
    Call(rng, dtype, "own", 12, pairs=5, interleaved=interleaved, causal=causal, per_sequence=True).check(
        context
    )


def test_a_strided_cache(context, rng):
    call = Call(rng, np.float32, "own", 3, pairs=4)
    apart = np.zeros((*call.key.shape[:3], 2 * HEAD_DIM), np.float32)
    apart[..., ::2], apart[..., 1::2] = call.key, np.nan
    call.key = apart[..., ::2]
    call.check(context)
    assert np.isnan(apart[..., 1::2]).all()


def test_no_new_rows_change_nothing(context, rng):
    call = Call(rng, np.float32, "own", 3)
    key, value = call.key.copy(), call.value.copy()
    out = mfa.attention(
        call.query, call.key, call.value, seqused_k=call.lengths, causal=True, context=context,
        k_new=call.k_new[:, :0], v_new=call.v_new[:, :0],
    )  # fmt: skip
    assert checks.same_bits(call.key, key)
    assert checks.same_bits(call.value, value)
    plain = mfa.attention(call.query, key, value, seqused_k=call.lengths, causal=True, context=context)
    assert checks.same_bits(out, plain)


@given(call=sequence_strategies.append_calls())
def test_equals_a_call_over_a_cache_that_holds_the_new_rows(context, call):
    """Wherever the cache lies: in rows, packed, in batches, in pages; nothing else in it changes."""
    query, key, value = call.appending.operands
    options = call.appending.options
    result = mfa.attention(query, key, value, context=context, return_lse=True, **options)
    for cache, expected in ((key, call.whole.key), (value, call.whole.value)):
        assert checks.same_bits(cache, expected)
    checks.assert_matches(
        result, checks.expected(*call.whole.operands, **call.whole.options), options["layout"]
    )


def test_plan_has_room_for_turned_queries(context, rng):
    call = Call(rng, np.float32, "own", 20, pairs=4)
    turning = call.run(context, mfa.plan).workspace_bytes
    call.rotary = {}
    assert turning >= call.run(context, mfa.plan).workspace_bytes + call.query.nbytes

"""Hypothesis strategies for calls of several sequences: packed, padded, in caches and in pages.

Whatever no length reaches is NaN, in a page table a page that is not there.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from support import checks, sequences, strategies

# One of a call's sequences may be far longer than the others.
LENGTHS = (0, 1, 2, 3, 5, 7, 12, 13, 16, 17, 31, 33, 47, 49, 64, 65)
LONG = (96, 97, 257)
PAGE_SIZES = (1, 2, 3, 7, 16, 33, 64)
NOWHERE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Sizes:
    """Of each sequence: queries, keys, and what comes before and behind them."""

    queries: list
    keys: list
    left_padding: list
    spare_queries: list
    spare_keys: list


@st.composite
def lengths(draw, count, longest):
    found = [draw(st.sampled_from(LENGTHS)) for _ in range(count)]
    if count and longest and draw(st.booleans()):
        found[draw(st.integers(0, count - 1))] = longest
    return found


@st.composite
def sizes(draw, most_queries):
    """`most_queries`: of the longest sequence."""
    count = draw(st.sampled_from((1, 2, 3, 4, 2, 3, 0)))
    few = st.sampled_from((0, 0, 1, 2, 5))
    queries = [min(n, most_queries) for n in draw(lengths(count, most_queries))]
    if draw(st.integers(0, 2)) == 0:
        queries = [min(n, 1) for n in queries]  # decoding
    keys = draw(lengths(count, draw(st.sampled_from(LONG))))
    if draw(st.integers(0, 2)) == 0:
        keys = list(queries)
    return Sizes(queries, keys, *([draw(few) for _ in range(count)] for _ in range(3)))


class Cache:
    """Where the keys of sequences lie: rows of a (batches, H, rows, D), NaN elsewhere, and the keywords that
    say so."""

    def __init__(self, draw, sizes, kind, padded, may_share):
        count = len(sizes.keys)
        padding = sizes.left_padding if padded else [0] * count
        used = [n + pad for n, pad in zip(sizes.keys, padding, strict=True)]
        self.options = {}
        if padded:
            self.options["leftpad_k"] = np.array(padding, np.int32)
        if kind == "packed":
            room = [n + spare for n, spare in zip(used, sizes.spare_keys, strict=True)]
            if sum(sizes.spare_keys) == 0 and draw(st.booleans()):
                room = used
            self.options["cu_seqlens_k"] = np.array([0, *np.cumsum(room)], np.int32)
            self.shape = (1, int(sum(room)) + draw(st.sampled_from((0, 3))))
        else:
            rows = max(used, default=0) + draw(st.sampled_from((0, 1, 9)))
            self.shape = (count, rows)
        if kind == "pages":
            size = draw(st.sampled_from(PAGE_SIZES))
            columns = -(-self.shape[1] // size) + draw(st.sampled_from((0, 2)))
            order = iter(draw(st.permutations(range(count * columns))) if count * columns < 60 else ())
            table = np.full((count, columns), NOWHERE, np.int32)
            taken = 0
            for b, n in enumerate(used):
                for column in range(padding[b] // size, -(-n // size)):
                    table[b, column] = next(order, taken)
                    taken += 1
            self.options["page_table"] = table
            self.shape = (count * columns + 1, size)
        if kind == "cache":
            batches = count + draw(st.sampled_from((0, 1, 3)))
            shares = may_share and draw(st.booleans())
            places = st.integers(0, max(batches - 1, 0))
            index = [draw(places) for _ in used] if shares else draw(st.permutations(range(batches)))[:count]
            self.options["cache_batch_idx"] = np.array(index, np.int32)
            self.shape = (batches, self.shape[1])
        whole = kind == "batch" and all(n == self.shape[1] for n in used)
        exact = kind == "packed" and used == list(np.diff(self.options["cu_seqlens_k"]))
        if not (whole or exact) or draw(st.booleans()):
            self.options["seqused_k"] = np.array(used, np.int32)


@st.composite
def calls(draw, *, backward=False, most_queries=97, kinds=("batch", "packed", "pages", "cache")):
    """A strategies.Call with lists of lengths."""
    of = draw(sizes(most_queries))
    rng = np.random.default_rng(draw(strategies.seeds))
    dtype = draw(strategies.dtypes)
    layout = draw(st.sampled_from(("bshd", "bhsd")))
    kv_heads, group = draw(st.sampled_from(((1, 1), (1, 3), (2, 2), (1, 9))))
    head_dim = draw(st.sampled_from((4, 7, 16, 33)))
    value_dim = draw(st.sampled_from((head_dim, head_dim, 5)))
    cache = Cache(draw, of, draw(st.sampled_from(kinds)), draw(st.booleans()), not backward)
    options = {"layout": layout, **cache.options}
    query_shape = _lay_out_queries(draw, of, options)
    query = np.full((query_shape[0], kv_heads * group, query_shape[1], head_dim), np.nan, dtype)
    key = np.full((cache.shape[0], kv_heads, cache.shape[1], head_dim), np.nan, dtype)
    value = np.full((cache.shape[0], kv_heads, cache.shape[1], value_dim), np.nan, dtype)
    for sequence in sequences.sequences(query, key, options):
        for array, places in ((query, sequence.queries), (key, sequence.keys), (value, sequence.keys)):
            shape = (1, array.shape[1], len(places), array.shape[3])
            places.scatter(array, rng.standard_normal(shape).astype(dtype))
    options |= draw(features(rng, query, key, options))
    packed = {"query": "cu_seqlens_q", "key": "cu_seqlens_k", "value": "cu_seqlens_k"}
    query, key, value = (
        placed(draw, x, layout, options.get(packed[name]) is not None)
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    return strategies.Call(query, key, value, options)


def _lay_out_queries(draw, of, options):
    """Batches and rows of query, and its keywords."""
    count = len(of.queries)
    if draw(st.booleans()):
        room = [n + spare for n, spare in zip(of.queries, of.spare_queries, strict=True)]
        shape = (1, int(sum(room)) + draw(st.sampled_from((0, 2))))
        options["cu_seqlens_q"] = np.array([0, *np.cumsum(room)], np.int32)
    else:
        rows = max(of.queries, default=0) + draw(st.sampled_from((0, 0, 2)))
        shape = (count, rows)
        room = [rows] * count
    if room != of.queries or draw(st.booleans()):
        options["seqused_q"] = np.array(of.queries, np.int32)
    return shape


def placed(draw, array, layout, is_packed):
    """`array`, (B, H, N, D), as the call takes it."""
    array = checks.heads_first(array, layout)
    array = array[0] if is_packed else array
    return draw(strategies.memories(array.ndim, constant=False)).place(array)


@st.composite
def features(draw, rng, query, key, options):
    """Keywords of mfa.attention that change its result; masks are NaN beyond a sequence's own sizes."""
    found = sequences.sequences(query, key, options)
    rows, keys = sequences.most(query, key, options)
    extra = {}
    if draw(st.integers(0, 3)) == 0:
        rows, keys = rows + 3, keys + 5
        extra |= {"max_seqlen_q": rows, "max_seqlen_k": keys}
    shape = strategies.Shape(len(found), query.shape[1], key.shape[1], rows, keys, query.shape[3], 1)
    causal, alignment = draw(strategies.alignments())
    extra |= {name: x for name, x in (("causal", causal), ("alignment", alignment)) if x is not None}
    if draw(st.booleans()):
        extra["window"] = draw(strategies.windows(min(rows, 20), min(keys, 20)))
    if draw(st.integers(0, 2)) == 0:
        extra["attention_chunk"] = draw(st.sampled_from((1, 2, 5, 16, 33, 1000)))
    if draw(st.booleans()):
        extra["softcap"] = draw(st.sampled_from((0.5, 5.0)))
    if draw(st.booleans()):
        extra |= draw(strategies.masks(rng, shape.scores))
    if draw(st.booleans()):
        heads = (shape.batch, shape.heads) if draw(st.booleans()) else (shape.heads,)
        extra["alibi_slopes"] = rng.uniform(-0.1, 0.5, heads).astype(np.float32)
    if draw(st.booleans()):
        extra["sinks"] = (3 * rng.standard_normal(shape.heads)).astype(np.float32)
    if draw(st.integers(0, 2)) == 0:
        extra |= draw(strategies.dropouts())
    return extra


@st.composite
def backward_calls(draw):
    """A strategies.BackwardCall with lists of lengths. No key has two places."""
    call = draw(calls(backward=True, most_queries=49))
    layout = call.options["layout"]
    query, value = (checks.heads_first(x, layout) for x in (call.query, call.value))
    rng = np.random.default_rng(draw(strategies.seeds))
    dout = np.full((*query.shape[:3], value.shape[3]), np.nan, draw(strategies.dtypes))
    dlse = np.full(dout.shape[:3], np.nan, np.float32)
    key = checks.heads_first(call.key, layout)
    for sequence in sequences.sequences(query, key, call.options):
        shape = (1, dout.shape[1], len(sequence.queries), dout.shape[3])
        sequence.queries.scatter(dout, rng.standard_normal(shape).astype(dout.dtype))
        sequence.queries.scatter(dlse, rng.standard_normal(shape[:3]).astype(np.float32))
    is_packed = call.options.get("cu_seqlens_q") is not None
    dout = placed(draw, dout, layout, is_packed)
    dlse = draw(strategies.memories(3 - is_packed, constant=False)).place(dlse[0] if is_packed else dlse)
    forward_dtype = draw(st.one_of(st.none(), strategies.dtypes))
    return strategies.BackwardCall(dout, call, forward_dtype, draw(st.sampled_from((None, dlse))))


@dataclass(frozen=True)
class AppendCall:
    """A call that appends, and the call over caches that hold the new rows, which it has to equal."""

    appending: strategies.Call
    whole: strategies.Call


@st.composite
def append_calls(draw):
    """The last keys of each sequence are new. In the caches before, NaN is where they go."""
    whole = draw(calls(backward=True))
    layout = whole.options["layout"]
    heads_first = [checks.heads_first(x, layout) for x in whole.operands]
    found = sequences.sequences(*heads_first[:2], whole.options)
    counts = [draw(st.integers(0, min(len(s.keys), 40))) for s in found]
    packed = draw(st.booleans())
    if not packed:
        counts = [min(counts, default=0)] * len(counts)
    options = dict(whole.options)
    padding = options.get("leftpad_k", [0] * len(found))
    used = [len(s.keys) - n + pad for s, n, pad in zip(found, counts, padding, strict=True)]
    options["seqused_k"] = np.array(used, np.int32)
    arrays = [whole.query]
    for name, array, given in (("k_new", heads_first[1], whole.key), ("v_new", heads_first[2], whole.value)):
        new = [s.keys.last(n).gather(array) for s, n in zip(found, counts, strict=True)]
        nothing = np.zeros((1, array.shape[1], 0, array.shape[3]), array.dtype)
        new = np.concatenate([nothing, *new], axis=2) if packed else np.concatenate(new or [nothing[:0]])
        options[name] = placed(draw, new, layout, packed)
        before = array.copy()
        for s, n in zip(found, counts, strict=True):
            s.keys.last(n).scatter(before, np.full((1, array.shape[1], n, array.shape[3]), np.nan))
        arrays.append(placed(draw, before, layout, given.ndim == 3))
    if packed:
        options["cu_seqlens_k_new"] = np.array([0, *np.cumsum(counts)], np.int32)
    return AppendCall(strategies.Call(*arrays, options), whole)

"""mfa.flash_attn_with_kvcache beside the same in NumPy: each argument, and what servers do with it."""

import numpy as np
import pytest
import torch
from support import backends, checks, kv_cache

import mfa

BATCH, HEADS, KV_HEADS, DIM, VALUE_DIM = 2, 4, 2, 16, 8
CAPACITY, PAGE = 24, 4


def int32(*numbers):
    return np.array(numbers, np.int32)


def normal(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def caches(rng, lead=(BATCH, CAPACITY), dtype=np.float32):
    return tuple(normal(rng, *lead, KV_HEADS, dim, dtype=dtype) for dim in (DIM, VALUE_DIM))


def new_rows(rng, *lead):
    return {"k": normal(rng, *lead, KV_HEADS, DIM), "v": normal(rng, *lead, KV_HEADS, VALUE_DIM)}


def rotary(rotary_dim=DIM, positions=64, dtype=np.float32):
    return dict(zip(("rotary_cos", "rotary_sin"), kv_cache.tables(positions, rotary_dim, dtype), strict=True))


def check(q, k_cache, v_cache, **arguments):
    """Runs it, holds result and caches against the expected and returns (out, lse)."""
    expected = kv_cache.Expected(q, k_cache, v_cache, **arguments)
    result = mfa.flash_attn_with_kvcache(q, k_cache, v_cache, **arguments, return_softmax_lse=True)
    np.testing.assert_allclose(k_cache, expected.k_cache, atol=1e-6)
    assert checks.same_bits(v_cache, expected.v_cache)
    checks.assert_matches(result, expected.reference)
    return result


TABLE = int32([3, 9, 0, 7, 1, -1], [2, 4, 11, 5, 8, 99])
CASES = {
    "nothing": lambda rng: {},
    "cache_seqlens, an int": lambda rng: {"cache_seqlens": 11},
    "cache_seqlens": lambda rng: {"cache_seqlens": int32(0, 13)},
    "causal": lambda rng: {"cache_seqlens": int32(9, 13), "causal": True},
    "window_size": lambda rng: {"cache_seqlens": int32(9, 13), "window_size": (3, 1)},
    "attention_chunk": lambda rng: {"cache_seqlens": int32(9, 13), "attention_chunk": 5},
    "softcap": lambda rng: {"softcap": 2.0},
    "softmax_scale": lambda rng: {"softmax_scale": 0.7},
    "qv": lambda rng: {"qv": normal(rng, BATCH, 3, HEADS, VALUE_DIM)},
    "q_descale": lambda rng: {"q_descale": rng.uniform(0.5, 2, (BATCH, KV_HEADS)).astype(np.float32)},
    "k_descale": lambda rng: {"k_descale": rng.uniform(0.5, 2, (BATCH, KV_HEADS)).astype(np.float32)},
    "v_descale": lambda rng: {"v_descale": rng.uniform(0.5, 2, (BATCH, KV_HEADS)).astype(np.float32)},
    "cache_batch_idx": lambda rng: {"cache_batch_idx": int32(1, 1)},
    "cache_leftpad": lambda rng: {"cache_leftpad": int32(0, 5), "cache_seqlens": int32(9, 12)},
    "k and v": lambda rng: {**new_rows(rng, BATCH, 3), "cache_seqlens": int32(0, 13)},
    "k and v fill the cache": lambda rng: {
        **new_rows(rng, BATCH, 5),
        "cache_seqlens": int32(19, 2),
        "page_table": np.where(TABLE == -1, 6, TABLE),
    },
    "k and v, int": lambda rng: {**new_rows(rng, BATCH, 3), "cache_seqlens": 7, "causal": True},
    "k and v behind left padding": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        "cache_leftpad": int32(7, 2),
    },
    "k and v to batches": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        "cache_batch_idx": int32(1, 0),
    },
    "cu_seqlens_k_new": lambda rng: {
        **new_rows(rng, 5),
        "cache_seqlens": int32(7, 13),
        "cu_seqlens_k_new": int32(0, 4, 5),
        "causal": True,
    },
    "rotary": lambda rng: {**new_rows(rng, BATCH, 3), "cache_seqlens": int32(7, 13), **rotary()},
    "rotary, causal": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        **rotary(),
        "causal": True,
    },
    "rotary, window": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        **rotary(),
        "window_size": (6, -1),
    },
    "rotary, some columns": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        **rotary(6),
        "causal": True,
    },
    "rotary_interleaved": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        **rotary(12),
        "rotary_interleaved": False,
        "causal": True,
    },
    "rotary_seqlens": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        **rotary(),
        "rotary_seqlens": int32(30, 2),
        "causal": True,
    },
    "rotary behind left padding": lambda rng: {
        **new_rows(rng, BATCH, 3),
        "cache_seqlens": int32(7, 13),
        **rotary(),
        "cache_leftpad": int32(2, 0),
        "causal": True,
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("paged", [False, True], ids=["rows", "pages"])
def test_each_argument(rng, case, paged):
    q = normal(rng, BATCH, 3, HEADS, DIM)
    arguments = CASES[case](rng)
    if paged:
        arguments = {"cache_seqlens": 20, "page_table": TABLE, **arguments}
        k_cache, v_cache = caches(rng, (12, PAGE))
    else:
        arguments.pop("page_table", None)
        k_cache, v_cache = caches(rng)
    out, lse = check(q, k_cache, v_cache, **arguments)
    assert out.shape == (BATCH, 3, HEADS, VALUE_DIM)
    assert lse.shape == (BATCH, HEADS, 3)


def test_packed_queries(rng):
    q = normal(rng, 7, HEADS, DIM)
    starts = int32(0, 6, 7)
    arguments = {
        **new_rows(rng, 7),
        **rotary(),
        "cache_seqlens": int32(0, 13),
        "cu_seqlens_q": starts,
        "cu_seqlens_k_new": starts,
        "max_seqlen_q": 6,
        "causal": True,
    }
    out, lse = check(q, *caches(rng), **arguments)
    assert out.shape == (7, HEADS, VALUE_DIM)
    assert lse.shape == (HEADS, 7)
    check(q, *caches(rng, (12, PAGE)), **arguments, page_table=TABLE)


def test_starts_of_new_rows_without_any_are_not_looked_at(rng):
    """As SGLang calls it, of caches that it has written."""
    q, arrays = normal(rng, 7, HEADS, DIM), caches(rng, (12, PAGE))
    arguments = {
        "page_table": TABLE,
        "cache_seqlens": int32(9, 13),
        "cu_seqlens_q": int32(0, 6, 7),
        "max_seqlen_q": 6,
        "causal": True,
    }
    out = mfa.flash_attn_with_kvcache(q, *arrays, **arguments, cu_seqlens_k_new=int32(0, 9, 22))
    assert checks.same_bits(out, mfa.flash_attn_with_kvcache(q, *arrays, **arguments))


def test_max_seqlen_q_is_a_bound_where_queries_are_packed(rng):
    q = normal(rng, 7, HEADS, DIM)
    arrays = caches(rng)
    starts = int32(0, 6, 7)
    more = mfa.flash_attn_with_kvcache(q, *arrays, cu_seqlens_q=starts, max_seqlen_q=50)
    plain = mfa.flash_attn_with_kvcache(q, *arrays, cu_seqlens_q=starts)
    np.testing.assert_allclose(more, plain, atol=2e-6)
    with pytest.raises(ValueError, match=r"^max_seqlen_q: 5, .*6 rows"):
        mfa.flash_attn_with_kvcache(q, *arrays, cu_seqlens_q=starts, max_seqlen_q=5)
    mfa.flash_attn_with_kvcache(q[None, :2].repeat(2, 0), *arrays, max_seqlen_q=1)


def test_a_batch_index_names_a_row_of_the_page_table(rng):
    q = normal(rng, 3, 1, HEADS, DIM)
    arguments = {"page_table": TABLE, "cache_batch_idx": int32(1, 0, 1), "cache_seqlens": int32(17, 20, 3)}
    check(q, *caches(rng, (12, PAGE)), **arguments)
    arguments["cache_batch_idx"] = int32(1, 0, 2)
    with pytest.raises(ValueError, match=r"^cache_batch_idx\[2\]: 2, expected 0 to 1"):
        mfa.flash_attn_with_kvcache(q, *caches(rng, (12, PAGE)), **arguments)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_types(rng, dtype):
    """The rotary tables may be of the type of q; rounding differs from the expected by a step at most."""
    q = normal(rng, BATCH, 3, HEADS, DIM, dtype=dtype)
    new = {name: x.astype(dtype) for name, x in new_rows(rng, BATCH, 3).items()}
    arguments = {**new, **rotary(dtype=dtype), "cache_seqlens": 7, "causal": True}
    k_cache, v_cache = caches(rng, dtype=dtype)
    expected = kv_cache.Expected(q, k_cache, v_cache, **arguments)
    out = mfa.flash_attn_with_kvcache(q, k_cache, v_cache, **arguments)
    step = 4 * checks.tolerance.unit_roundoff(dtype)
    as64 = np.float64
    np.testing.assert_allclose(k_cache.astype(as64), expected.k_cache.astype(as64), rtol=step, atol=step)
    assert checks.same_bits(v_cache, expected.v_cache)
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(as64), expected.reference.out.swapaxes(1, 2), atol=8 * step)


class Model:
    """A sequence that grows: every row's q, k and v, and what attention to all rows so far is."""

    def __init__(self, rng, length):
        self.q = normal(rng, length, HEADS, DIM)
        self.k, self.v = (x[0] for x in caches(rng, (1, length)))
        tables = kv_cache.tables(length, DIM)
        where = np.arange(length)
        turned = [kv_cache.turned(x, *tables, where) for x in (self.q, self.k)]
        keys, values = (np.repeat(x, HEADS // KV_HEADS, axis=1) for x in (turned[1], self.v))
        scores = np.einsum("ihd,jhd->hij", turned[0], keys) / DIM**0.5
        scores = np.where(where[:, None] >= where, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        self.out = np.einsum("hij,jhd->ihd", weights, values)


class Server:
    """Caches of several sequences, in rows or in pages that are handed out as they are needed."""

    def __init__(self, models, rng, capacity, page_size=None):
        self.models = models
        self.lengths = np.zeros(len(models), np.int32)
        self.rotary = rotary(positions=capacity)
        self.options = {}
        self.page_size = page_size
        lead = (len(models), capacity)
        if page_size:
            columns = -(-capacity // page_size)
            self.free = list(rng.permutation(len(models) * columns))
            self.options["page_table"] = np.full((len(models), columns), -1, np.int32)
            lead = (len(models) * columns, page_size)
        self.caches = [np.full((*lead, KV_HEADS, dim), np.nan, np.float32) for dim in (DIM, VALUE_DIM)]

    def make_room(self, counts):
        if self.page_size:
            for line, length in zip(self.options["page_table"], self.lengths + counts, strict=True):
                for column in range(-(-length // self.page_size)):
                    line[column] = self.free.pop() if line[column] < 0 else line[column]

    def step(self, counts):
        """Appends so many rows of each sequence, and compares what they attend to."""
        counts = np.broadcast_to(counts, len(self.models))
        self.make_room(counts)
        slices = [slice(at, at + n) for at, n in zip(self.lengths, counts, strict=True)]
        pairs = list(zip(self.models, slices, strict=True))
        q, k, v = (np.concatenate([getattr(model, x)[rows] for model, rows in pairs]) for x in "qkv")
        options = dict(self.options)
        if (counts == counts[0]).all():
            q, k, v = (x.reshape(len(counts), -1, *x.shape[1:]) for x in (q, k, v))
        else:
            starts = int32(0, *np.cumsum(counts))
            options |= {"cu_seqlens_q": starts, "cu_seqlens_k_new": starts, "max_seqlen_q": counts.max()}
        out = mfa.flash_attn_with_kvcache(
            q, *self.caches, k, v, cache_seqlens=self.lengths, causal=True, **self.rotary, **options
        )
        self.lengths = self.lengths + counts.astype(np.int32)
        expected = [model.out[rows] for model, rows in pairs]
        np.testing.assert_allclose(out.reshape(-1, HEADS, VALUE_DIM), np.concatenate(expected), atol=5e-6)


STEPS = 30 if backends.DEFAULT.is_emulated else 200


@pytest.mark.parametrize("page_size", [None, 16, 1])
def test_generation_equals_full_attention_at_every_step(rng, page_size):
    prompt = 23
    models = [Model(rng, prompt + STEPS) for _ in range(2)]
    server = Server(models, rng, prompt + STEPS, page_size)
    server.step(prompt)
    for _ in range(STEPS):
        server.step(1)


@pytest.mark.parametrize("page_size", [None, 7])
def test_chunked_prefill_equals_full_attention(rng, page_size):
    chunks = [7, 1, 30, 16, 2, 0, 13]
    server = Server([Model(rng, sum(chunks)) for _ in range(2)], rng, sum(chunks), page_size)
    for chunk in chunks:
        server.step(chunk)


@pytest.mark.parametrize("page_size", [None, 8])
def test_continuous_batching(rng, page_size):
    """Prompts, pieces of prompts and single tokens in one call, and sequences that pause."""
    schedule = [(20, 3, 0), (1, 9, 17), (1, 1, 5), (0, 1, 1), (1, 30, 1), (1, 1, 0), (3, 1, 1)]
    lengths = np.sum(schedule, axis=0)
    server = Server([Model(rng, n) for n in lengths], rng, lengths.max(), page_size)
    for counts in schedule:
        server.step(counts)


def test_torch_tensors_are_written_in_place(rng):
    q, (k_cache, v_cache) = normal(rng, BATCH, 1, HEADS, DIM), caches(rng)
    new = new_rows(rng, BATCH, 1)
    tensors = [torch.from_numpy(x.copy()) for x in (k_cache, v_cache)]
    versions = [x._version for x in tensors]
    lengths = torch.tensor([3, 20], dtype=torch.int32)
    out = mfa.flash_attn_with_kvcache(
        torch.from_numpy(q), *tensors, *map(torch.from_numpy, new.values()), cache_seqlens=lengths
    )
    expected = mfa.flash_attn_with_kvcache(q, k_cache, v_cache, **new, cache_seqlens=int32(3, 20))
    assert isinstance(out, torch.Tensor)
    assert np.array_equal(out.numpy(), expected)
    for tensor, cache, version in zip(tensors, (k_cache, v_cache), versions, strict=True):
        assert np.array_equal(tensor.numpy(), cache)
        assert tensor._version > version
    mfa.flash_attn_with_kvcache(torch.from_numpy(q), *tensors, cache_seqlens=lengths)
    assert tensors[0]._version == versions[0] + 1


def test_strided_caches_are_written_in_place(rng):
    """Of one array, with keys and values side by side and heads before rows."""
    both = normal(rng, BATCH, KV_HEADS, 2 * CAPACITY, DIM + VALUE_DIM)
    view = both.swapaxes(1, 2)[:, ::2]
    before = both.copy()
    check(
        normal(rng, BATCH, 2, HEADS, DIM),
        view[..., :DIM],
        view[..., DIM:],
        **new_rows(rng, BATCH, 2),
        cache_seqlens=int32(3, 9),
    )
    changed = (before != both).any(axis=(1, 3))
    assert [list(np.flatnonzero(line)) for line in changed] == [[6, 8], [18, 20]]


def test_metadata_of_the_call_is_accepted(rng):
    q, arrays = normal(rng, BATCH, 1, HEADS, DIM), caches(rng)
    lengths = int32(3, 20)
    metadata = mfa.get_scheduler_metadata(
        BATCH, 1, CAPACITY, HEADS, KV_HEADS, DIM, lengths, headdim_v=VALUE_DIM, causal=True
    )
    assert metadata.dtype == np.int32
    plain = mfa.flash_attn_with_kvcache(q, *arrays, cache_seqlens=lengths)
    longer = np.zeros(64, np.int32)
    longer[: len(metadata)] = metadata
    for given in (metadata, longer, torch.from_numpy(metadata)):
        out = mfa.flash_attn_with_kvcache(q, *arrays, cache_seqlens=lengths, scheduler_metadata=given)
        assert checks.same_bits(out, plain)
    other = mfa.get_scheduler_metadata(BATCH, 1, CAPACITY, 2 * HEADS, KV_HEADS, DIM, lengths)
    with pytest.raises(ValueError, match=r"^scheduler_metadata: for num_heads_q 8, expected 4"):
        mfa.flash_attn_with_kvcache(q, *arrays, cache_seqlens=lengths, scheduler_metadata=other)


def test_metadata_is_of_the_kind_of_the_lengths():
    lengths = torch.tensor([3, 20], dtype=torch.int32)
    metadata = mfa.get_scheduler_metadata(2, 1, 24, 4, 2, 16, lengths, torch.float16)
    assert isinstance(metadata, torch.Tensor)
    assert metadata.dtype == torch.int32

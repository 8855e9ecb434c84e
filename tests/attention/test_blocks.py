"""Blocks that are not listed are hidden and never read; masks of blocks hide pairs in them."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import checks, oracle, strategies

import mfa

HIDDEN, WHOLE, PARTIAL, FULL = range(4)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """A block mask, and the bool array that it stands for."""

    block_mask: object
    dense: np.ndarray


def blocks_of(rng, shape, block_size, *, shared=(False, False), likely=(0.4, 0.2, 0.2, 0.2), wide=0):
    """Blocks of each kind at random, listed in any order with anything behind them."""
    *heads, rows, keys = (
        1 if once else size for once, size in zip((*shared, False, False), shape, strict=True)
    )
    grid = math.ceil(rows / block_size[0]), math.ceil(keys / block_size[1])
    kinds = rng.choice(4, (*heads, *grid), p=likely)
    # Few distinct masks, so that blocks share them.
    table = rng.random((3, *block_size)) < 0.6
    which = rng.integers(0, 3, kinds.shape)

    def mask_mod(b, h, q_idx, kv_idx):
        at = b % heads[0], h % heads[1], q_idx // block_size[0], kv_idx // block_size[1]
        seen = table[which[at], q_idx % block_size[0], kv_idx % block_size[1]]
        return (kinds[at] != PARTIAL) | seen

    def listed(counted):
        num_blocks = counted.sum(-1, dtype=np.int32)
        indices = rng.integers(-9, 99, (*counted.shape[:3], grid[1] + wide), dtype=np.int32)
        for at in np.ndindex(*counted.shape[:3]):
            indices[at][: num_blocks[at]] = rng.permutation(np.flatnonzero(counted[at]))
        return num_blocks, indices

    block_mask = mfa.BlockMask.from_kv_blocks(
        *listed((kinds == WHOLE) | (kinds == PARTIAL)),
        *(listed(kinds == FULL) if (kinds == FULL).any() else (None, None)),
        BLOCK_SIZE=block_size,
        mask_mod=mask_mod,
        seq_lengths=(rows, keys),
    )
    indices = np.ix_(*map(np.arange, (*heads, rows, keys)))
    of_pairs = kinds.repeat(block_size[0], 2).repeat(block_size[1], 3)[:, :, :rows, :keys]
    dense = mask_mod(*indices) if of_pairs.size else np.zeros(of_pairs.shape, bool)
    return Blocks(block_mask, np.broadcast_to(dense & (of_pairs != HIDDEN), shape))


def with_dense(options, dense):
    """Keywords without blocks that hide the same."""
    options = dict(options)
    mask = options.pop("mask", None)
    if mask is not None and mask.dtype != bool:
        options["bias"] = mask
        mask = None
    return {**options, "mask": dense if mask is None else dense & mask}


@st.composite
def sizes(draw):
    return (
        draw(st.one_of(st.integers(1, 9), st.sampled_from((16, 31, 64, 100, 128)))),
        draw(st.one_of(st.integers(1, 9), st.sampled_from((16, 31, 64, 100, 128)))),
    )


@st.composite
def block_calls(draw):
    group = draw(st.integers(1, 3))
    shape = strategies.Shape(
        batch=draw(st.integers(1, 2)),
        heads=group * 2,
        kv_heads=2,
        query_length=draw(st.one_of(st.integers(0, 40), st.sampled_from((1, 64, 130)))),
        key_length=draw(st.one_of(st.integers(0, 40), st.sampled_from((1, 64, 200, 300)))),
        head_dim=draw(st.sampled_from((8, 16, 33))),
        value_dim=draw(st.sampled_from((8, 16, 33))),
    )
    rng = np.random.default_rng(draw(strategies.seeds))
    shared = draw(st.tuples(st.booleans(), st.booleans()))
    blocks = blocks_of(rng, shape.scores, draw(sizes()), shared=shared, wide=draw(st.integers(0, 3)))
    options = draw(strategies.features(rng, shape)) if draw(st.booleans()) else {}
    lengths = {name: getattr(shape, name) for name in shape.__dataclass_fields__}
    operands = checks.operands_and_dout(rng, **lengths, dtype=draw(strategies.dtypes), layout="bhsd")
    return blocks, operands, options


@given(call=block_calls())
def test_equals_the_dense_mask(context, call):
    blocks, (_, *operands), options = call
    result = mfa.attention(
        *operands, layout="bhsd", block_mask=blocks.block_mask, return_lse=True, context=context, **options
    )
    reference = checks.expected(*operands, layout="bhsd", **with_dense(options, blocks.dense))
    checks.assert_matches(result, reference, "bhsd")


@given(call=block_calls())
def test_gradients_equal_those_of_the_dense_mask(context, call):
    blocks, (dout, *operands), options = call
    gradients = checks.backward(
        context, dout, *operands, layout="bhsd", block_mask=blocks.block_mask, **options
    )
    reference = checks.expected_gradients(dout, *operands, layout="bhsd", **with_dense(options, blocks.dense))
    checks.assert_gradients_match(gradients, reference, "bhsd")


@pytest.mark.parametrize("block_size", [(16, 16), (7, 130), (64, 128)])
def test_hidden_blocks_are_never_read(context, rng, block_size):
    """Keys that no block lists are NaN, and so are queries whose row of blocks is empty; values too, where
    blocks are as large as tiles."""
    dout, query, key, value = checks.operands_and_dout(
        rng, batch=2, heads=2, query_length=150, key_length=400, head_dim=16, layout="bhsd"
    )
    rows, columns = math.ceil(150 / block_size[0]), math.ceil(400 / block_size[1])
    counted = rng.random((1, 1, rows, columns)) < 0.5
    counted[..., 1::3] = counted[:, :, 2::4] = False
    pattern = mfa.SparsityPattern.custom(counted, block_size)
    dense = counted.repeat(block_size[0], 2).repeat(block_size[1], 3)[:, :, :150, :400]
    expected = checks.expected(query, key, value, layout="bhsd", mask=dense)
    gradients = checks.expected_gradients(dout, query, key, value, layout="bhsd", mask=dense)
    unseen = ~dense.any(axis=(0, 1, 2))
    key[:, :, unseen] = np.nan
    if block_size[1] == 128:
        value[:, :, unseen] = np.nan
    query[:, :, ~dense.any(axis=(0, 1, 3))] = np.nan
    options = {"layout": "bhsd", "sparsity": pattern, "context": context}
    out, lse = mfa.attention(query, key, value, return_lse=True, **options)
    checks.assert_matches((out, lse), expected, "bhsd")
    result = mfa.attention_backward(dout, query, key, value, out, lse, **options)
    checks.assert_gradients_match(result, gradients, "bhsd")


@pytest.mark.parametrize("lists", ["lists", "bools"])
def test_results_do_not_depend_on_threads(backend, rng, lists):
    operands = checks.operands(rng, batch=1, heads=3, query_length=300, key_length=500, layout="bhsd")
    blocks = blocks_of(rng, (1, 3, 300, 500), (32, 16)).block_mask
    if lists == "bools":
        blocks = mfa.SparsityPattern.custom(blocks.to_dense().astype(bool), (32, 16)).keywords["block_mask"]
    results = []
    for threads in (1, 3):
        with backend.context(num_threads=threads) as context:
            results.append(mfa.attention(*operands, layout="bhsd", block_mask=blocks, context=context))
    assert checks.same_bits(*results)


def test_full_blocks_are_the_same_as_whole_ones(context, rng):
    operands = checks.operands(rng, heads=2, query_length=130, key_length=200, layout="bhsd")
    results = []
    for likely in ((0.5, 0.5, 0, 0), (0.5, 0, 0, 0.5)):
        blocks = blocks_of(np.random.default_rng(1), (1, 2, 130, 200), (32, 16), likely=likely)
        results.append(mfa.attention(*operands, layout="bhsd", block_mask=blocks.block_mask, context=context))
    assert checks.same_bits(*results)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_sequences_have_the_blocks_of_the_longest(context, rng, packed):
    """Rows and keys of a sequence count from its first ones, and so do blocks."""
    blocks = blocks_of(rng, (1, 2, 40, 50), (16, 8))
    queries, keys = np.array([40, 23, 1]), np.array([50, 33, 0])
    query = rng.standard_normal((3, 40, 2, 8), dtype=np.float32)
    key, value = rng.standard_normal((2, 3, 50, 2, 8), dtype=np.float32)
    sequences = [
        (query[b, :n], key[b, :m], value[b, :m]) for b, (n, m) in enumerate(zip(queries, keys, strict=True))
    ]
    if packed:
        starts = (np.concatenate([[0], np.cumsum(x)]).astype(np.int32) for x in (queries, keys))
        options = dict(zip(("cu_seqlens_q", "cu_seqlens_k"), starts, strict=True))
        operands = [np.concatenate(rows) for rows in zip(*sequences, strict=True)]
    else:
        options = {"seqused_q": queries.astype(np.int32), "seqused_k": keys.astype(np.int32)}
        operands = query, key, value
    out = mfa.attention(*operands, block_mask=blocks.block_mask, context=context, **options)
    rows = (
        np.split(out, np.cumsum(queries)[:-1])
        if packed
        else [x[:n] for x, n in zip(out, queries, strict=True)]
    )
    for found, sequence in zip(rows, sequences, strict=True):
        q, k, v = (x.swapaxes(0, 1)[None].astype(np.float64) for x in sequence)
        expected, _ = oracle.attention(q, k, v, bool_mask=blocks.dense[:, :, : q.shape[2], : k.shape[2]])
        np.testing.assert_allclose(found.swapaxes(0, 1)[None], expected, rtol=1e-4, atol=1e-5)


def test_no_block_at_all(context, rng):
    dout, *operands = checks.operands_and_dout(rng, heads=2, query_length=20, key_length=30, layout="bhsd")
    blocks = blocks_of(rng, (1, 2, 20, 30), (8, 8), likely=(1, 0, 0, 0)).block_mask
    out, lse = mfa.attention(*operands, layout="bhsd", block_mask=blocks, return_lse=True, context=context)
    assert not out.any()
    assert (lse == -np.inf).all()
    gradients = mfa.attention_backward(
        dout, *operands, out, lse, layout="bhsd", block_mask=blocks, context=context
    )
    assert not any(x.any() for x in gradients[:3])

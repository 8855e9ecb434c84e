"""mfa.SparsityPattern stands for other keywords, mfa.patterns for mask_mods that nobody evaluates whole."""

import numpy as np
import pytest
from support import checks, mask_mods

import mfa
from mfa import patterns


@pytest.fixture
def arrays(rng):
    return checks.operands_and_dout(rng, heads=2, query_length=30, key_length=45)


COUNTED = np.random.default_rng(3).random((4, 3)) < 0.6
SAME = {
    "none": (mfa.SparsityPattern.none(), {}),
    "causal": (mfa.SparsityPattern.causal(), {"causal": "bottom-right"}),
    "sliding_window": (mfa.SparsityPattern.sliding_window(5), {"window": (4, 0)}),
    "custom": (
        mfa.SparsityPattern.custom(COUNTED, (8, 16)),
        {"mask": COUNTED.repeat(8, 0).repeat(16, 1)[:30, :45]},
    ),
    "custom of a BlockMask": (
        mfa.SparsityPattern.custom(mfa.create_block_mask(mask_mods.prefix, 1, 1, 30, 45, BLOCK_SIZE=8)),
        {"mask": mfa.create_mask(mask_mods.prefix, 1, 1, 30, 45)},
    ),
}


@pytest.mark.parametrize(("sparsity", "options"), SAME.values(), ids=SAME)
def test_pattern_is_the_same_as_its_keywords(sparsity, options, arrays):
    dout, *operands = arrays
    result = out, lse = mfa.attention(*operands, sparsity=sparsity, return_lse=True)
    checks.assert_matches(result, checks.expected(*operands, **options))
    gradients = mfa.attention_backward(dout, *operands, out, lse, sparsity=sparsity)
    checks.assert_gradients_match(gradients, checks.expected_gradients(dout, *operands, **options), "bshd")
    assert mfa.plan(*operands, sparsity=sparsity).status == 0


def test_causal_follows_alignment(arrays):
    _, *operands = arrays
    result = mfa.attention(*operands, sparsity=mfa.SparsityPattern.causal(), alignment="top-left")
    assert checks.same_bits(result, mfa.attention(*operands, causal="top-left"))


def test_pattern_of_heads_and_batches(rng):
    operands = checks.operands(rng, batch=2, heads=4, query_length=30, key_length=45, layout="bhsd")
    counted = rng.random((2, 4, 4, 3)) < 0.6
    pattern = mfa.SparsityPattern.custom(counted, (8, 16))
    result = mfa.attention(*operands, layout="bhsd", sparsity=pattern, return_lse=True)
    mask = counted.repeat(8, 2).repeat(16, 3)[:, :, :30, :45]
    checks.assert_matches(result, checks.expected(*operands, layout="bhsd", mask=mask), "bhsd")


ONES = np.ones((1, 30, 2, 8), np.float32)
WRONG = {
    "no pattern": (TypeError, "sparsity: 'causal', expected an mfa.SparsityPattern",
                   lambda: mfa.attention(ONES, ONES, ONES, sparsity="causal")),
    "with causal": (ValueError, "sparsity: causal beside causal, expected one of them",
                    lambda: mfa.attention(ONES, ONES, ONES, sparsity=SAME["causal"][0], causal=True)),
    "with window": (ValueError, "sparsity: sliding_window beside window",
                    lambda: mfa.plan(ONES, ONES, ONES, sparsity=SAME["sliding_window"][0], window=(3, 3))),
    "with block_mask": (ValueError, "sparsity: custom beside block_mask",
                        lambda: mfa.attention(ONES, ONES, ONES, sparsity=SAME["custom"][0],
                                              block_mask=SAME["custom of a BlockMask"][0])),
    "window of 0": (ValueError, "window_size: 0, expected 1 or more",
                    lambda: mfa.SparsityPattern.sliding_window(0)),
    "numbers": (TypeError, "block_mask: dtype int64, expected bool",
                lambda: mfa.SparsityPattern.custom(np.ones((3, 3), np.int64), 8)),
    "one axis": (ValueError, "block_mask: 1 dimensions, expected 2 to 4",
                 lambda: mfa.SparsityPattern.custom(np.ones(3, bool), 8)),
    "block size 0": (ValueError, r"block_size: \(8, 0\), expected 1 or more",
                     lambda: mfa.SparsityPattern.custom(COUNTED, (8, 0))),
    "without a size": (TypeError, "block_mask: array.*, expected a BlockMask",
                       lambda: mfa.SparsityPattern.custom(COUNTED)),
    "other blocks": (ValueError, r"block_mask: shape \(1, 1, 4, 3\), expected \(1, 2, 4, 2\), or 1",
                     lambda: mfa.attention(ONES, ONES, ONES, sparsity=SAME["custom"][0])),
    "length": (ValueError, "length: -1, expected 0", lambda: patterns.causal(-1)),
    "width": (ValueError, "width: 0, expected 1 or more", lambda: patterns.sliding_window(10, 0)),
    "window": (TypeError, "window: 1.5, expected an integer", lambda: patterns.longformer(10, 1.5)),
    "ids": (TypeError, "ids: dtype float64, expected integers", lambda: patterns.documents(np.ones(5))),
    "ids of three axes": (ValueError, "ids: 3 dimensions, expected 1 or 2",
                          lambda: patterns.documents(np.ones((1, 1, 5), int))),
}  # fmt: skip


@pytest.mark.parametrize(("error", "message", "call"), WRONG.values(), ids=WRONG)
def test_wrong_argument_is_named(error, message, call):
    with pytest.raises(error, match=message):
        call()


IDS = mask_mods.DOCUMENTS[:100]
SORTED = np.sort(np.stack([IDS, IDS[::-1] % 3]), axis=1)
BAND = np.arange(100)[:, None] - np.arange(100)
KEYS = np.arange(100)[None, :]
EXPECTED = {
    "causal": (lambda size: patterns.causal(100, block_size=size), BAND >= 0),
    "sliding_window": (
        lambda size: patterns.sliding_window(100, 9, block_size=size),
        (BAND >= 0) & (BAND < 9),
    ),
    "longformer": (
        lambda size: patterns.longformer(100, 12, 5, block_size=size),
        (abs(BAND) <= 6) | (KEYS < 5) | (KEYS.T < 5),
    ),
    "causal longformer": (
        lambda size: patterns.longformer(100, 12, 5, causal=True, block_size=size),
        ((abs(BAND) <= 6) | (KEYS < 5) | (KEYS.T < 5)) & (BAND >= 0),
    ),
    "prefix_lm": (lambda size: patterns.prefix_lm(100, 17, block_size=size), (BAND >= 0) | (KEYS < 17)),
    "dilated": (
        lambda size: patterns.dilated(100, 8, 3, block_size=size),
        (abs(BAND) <= 12) & (BAND % 3 == 0),
    ),
    "causal dilated": (
        lambda size: patterns.dilated(100, 8, 3, causal=True, block_size=size),
        (BAND >= 0) & (BAND <= 12) & (BAND % 3 == 0),
    ),
    "strided": (
        lambda size: patterns.strided(100, 7, block_size=size),
        (BAND >= 0) & ((BAND < 7) | (BAND % 7 == 0)),
    ),
    "documents": (lambda size: patterns.documents(IDS, block_size=size), IDS[:, None] == IDS),
    "causal documents of batches": (
        lambda size: patterns.documents(SORTED, causal=True, block_size=size),
        ((SORTED[:, :, None] == SORTED[:, None, :]) & (BAND >= 0))[:, None],
    ),
}


@pytest.mark.parametrize("block_size", [16, (7, 32), 1, 128])
@pytest.mark.parametrize(("made", "dense"), EXPECTED.values(), ids=EXPECTED)
def test_patterns(made, dense, block_size, rng):
    block_mask = made(block_size)
    operands = checks.operands(rng, batch=2, heads=2, query_length=100, key_length=100, layout="bhsd")
    result = mfa.attention(*operands, layout="bhsd", block_mask=block_mask, return_lse=True)
    checks.assert_matches(result, checks.expected(*operands, layout="bhsd", mask=dense), "bhsd")
    mask = np.broadcast_to(mfa.create_mask(block_mask.mask_mod, 2, 1, 100, 100), (2, 1, 100, 100))
    np.testing.assert_array_equal(mask, np.broadcast_to(dense, mask.shape))


@pytest.mark.parametrize("block_size", [16, (7, 32)])
def test_bigbird(block_size, rng):
    block_mask = patterns.bigbird(200, 3, 1, 2, seed=4, block_size=block_size)
    blocks = block_mask.to_dense()[0, 0].astype(bool)
    assert blocks[0].all()
    assert blocks[:, 0].all()
    assert blocks[-1].all()
    assert blocks[:, -1].all()
    for row, columns in enumerate(blocks[1:-1], 1):
        own = row * block_mask.BLOCK_SIZE[0] // block_mask.BLOCK_SIZE[1]
        assert columns[max(0, own - 1) : own + 2].all()
        wanted = len({0, len(columns) - 1, *range(max(0, own - 1), min(own + 2, len(columns)))}) + 2
        assert columns.sum() == min(wanted, len(columns))
    again = patterns.bigbird(200, 3, 1, 2, seed=4, block_size=block_size)
    np.testing.assert_array_equal(again.to_dense(), block_mask.to_dense())
    assert not block_mask.kv_num_blocks.any()
    operands = checks.operands(rng, heads=2, query_length=200, key_length=200, layout="bhsd")
    result = mfa.attention(*operands, layout="bhsd", block_mask=block_mask, return_lse=True)
    dense = blocks.repeat(block_mask.BLOCK_SIZE[0], 0).repeat(block_mask.BLOCK_SIZE[1], 1)[:200, :200]
    checks.assert_matches(result, checks.expected(*operands, layout="bhsd", mask=dense), "bhsd")
    mask = mfa.create_mask(block_mask.mask_mod, None, None, 200, 200)
    np.testing.assert_array_equal(mask[0, 0], dense)


def test_patterns_are_not_evaluated_whole():
    block_mask = patterns.longformer(16384, 512, 64)
    asked = []

    def mask_mod(b, h, q_idx, kv_idx, mask_mod=block_mask.mask_mod):
        asked.append(np.size(q_idx) * np.size(kv_idx))
        return mask_mod(b, h, q_idx, kv_idx)

    block_mask.mask_mod = mask_mod
    lists = block_mask.lists((1, 1, 16384, 16384), True)
    assert sum(asked) < 16384 * 16384 / 20
    assert len(lists.masks) < 20
    assert block_mask.sparsity() > 90


def test_documents_of_no_tokens():
    assert patterns.documents(np.zeros(0, int)).shape == (1, 1, 0, 0)

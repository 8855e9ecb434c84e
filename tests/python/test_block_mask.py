"""mfa.BlockMask and what makes it are PyTorch's, for any array and in bounded memory."""

import sys
import tracemalloc

import numpy as np
import pytest
from support import mask_mods, oracle
from support.tools import require_module

import mfa

torch = require_module("torch", "pip install torch")
flex = require_module("torch.nn.attention.flex_attention", "pip install torch")

LISTS = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
BY_COLUMNS = ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")
DOCUMENTS = torch.from_numpy(mask_mods.DOCUMENTS)
POSITIONS = torch.stack([torch.arange(600) // 20, torch.arange(600) % 20], dim=1)


def neighbours(b, h, q_idx, kv_idx):
    """Only takes single indices: of arrays it would reduce too much."""
    return (POSITIONS[q_idx] - POSITIONS[kv_idx]).abs().max() <= 2


WITH_TORCH = {
    "torch documents": mask_mods.documents(DOCUMENTS),
    "torch function": lambda b, h, q, k: torch.logical_and(q >= k, torch.eq(DOCUMENTS[q], DOCUMENTS[k])),
    "single indices": neighbours,
    "their and_masks": flex.and_masks(mask_mods.causal, mask_mods.documents(DOCUMENTS)),
    "their noop_mask": flex.noop_mask,
}
# Those of NumPy's, which PyTorch is given as torch's.
WITH_ARRAYS = {
    "documents": (mask_mods.documents(), mask_mods.documents(DOCUMENTS)),
    "padding": (mask_mods.padding(), mask_mods.padding(torch.from_numpy(mask_mods.LENGTHS))),
    "and_masks": (
        mfa.and_masks(mask_mods.causal, mask_mods.documents()),
        flex.and_masks(mask_mods.causal, mask_mods.documents(DOCUMENTS)),
    ),
    "or_masks": (
        mfa.or_masks(mask_mods.window, mask_mods.by_head),
        flex.or_masks(mask_mods.window, mask_mods.by_head),
    ),
    "noop_mask": (mfa.noop_mask, flex.noop_mask),
}
MASK_MODS = {
    **{name: (mask_mod, mask_mod) for name, mask_mod in {**mask_mods.PLAIN, **WITH_TORCH}.items()},
    **WITH_ARRAYS,
}
SHAPES = {
    "square": (1, 1, 256, 256, 64),
    "ragged": (3, 4, 75, 110, (32, 16)),
    "one block": (3, 2, 5, 7, 128),
    "one row": (1, 2, 1, 100, 8),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("ours", "theirs"), MASK_MODS.values(), ids=MASK_MODS)
def test_is_what_pytorch_makes(ours, theirs, shape):
    *sizes, block_size = shape
    result = mfa.create_block_mask(ours, *sizes, BLOCK_SIZE=block_size)
    expected = flex.create_block_mask(theirs, *sizes, device="cpu", BLOCK_SIZE=block_size)
    for name in LISTS + BY_COLUMNS:
        one, other = getattr(result, name), getattr(expected, name).numpy()
        assert one.dtype == np.int32
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert result.shape == expected.shape
    assert result.numel() == expected.numel()
    assert result.BLOCK_SIZE == expected.BLOCK_SIZE
    assert result.seq_lengths == expected.seq_lengths
    assert result.sparsity() == pytest.approx(expected.sparsity())
    np.testing.assert_array_equal(result.to_dense(), expected.to_dense().numpy())
    for grid in (20, 2, (1, 3), -1):
        assert result.to_string(grid, limit=99) == expected.to_string(grid, limit=99)
    mask = mfa.create_mask(ours, *sizes)
    np.testing.assert_array_equal(mask, flex.create_mask(theirs, *sizes, device="cpu").numpy())
    assert mask.dtype == bool


def hides_what_it_should(block_mask, dense, rng):
    """Whether a call with the BlockMask is one with the dense mask."""
    batch, heads, rows, keys = dense.shape
    query = rng.standard_normal((batch, heads, rows, 8), dtype=np.float32)
    key, value = rng.standard_normal((2, batch, heads, keys, 8), dtype=np.float32)
    result = mfa.attention(query, key, value, layout="bhsd", block_mask=block_mask)
    expected, _ = oracle.attention(query, key, value, bool_mask=dense)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(("ours", "theirs"), MASK_MODS.values(), ids=MASK_MODS)
def test_attention_takes_it_and_pytorchs(ours, theirs, shape, rng):
    *sizes, block_size = shape
    dense = flex.create_mask(theirs, *sizes, device="cpu").numpy()
    hides_what_it_should(mfa.create_block_mask(ours, *sizes, BLOCK_SIZE=block_size), dense, rng)
    for apart in (True, False):
        block_mask = flex.create_block_mask(
            theirs, *sizes, device="cpu", BLOCK_SIZE=block_size, separate_full_blocks=apart
        )
        hides_what_it_should(block_mask, dense, rng)


@pytest.mark.parametrize("maker", [mfa.create_block_mask, flex.create_block_mask], ids=["ours", "PyTorch's"])
def test_shared_lists_hide_what_each_batch_and_head_hides(maker, rng):
    """Lists of no batch and head, with a mask_mod that asks for them, as PyTorch allows."""

    def mask_mod(b, h, q_idx, kv_idx):
        return (q_idx >= kv_idx) & (kv_idx % 5 != b + h)

    block_mask = maker(mask_mod, None, None, 40, 40, device="cpu", BLOCK_SIZE=16)
    hides_what_it_should(block_mask, mask_mods.dense(mask_mod, (2, 3, 40, 40)), rng)


def test_masks_are_kept_once_and_only_of_partial_blocks():
    block_mask = mfa.create_block_mask(mask_mods.causal, 2, 3, 2048, 2048, BLOCK_SIZE=64)
    lists = block_mask.lists((2, 3, 2048, 2048), True)
    assert lists.masks.shape == (1, 1, 64, 64)
    assert lists.mask_indices.shape[:2] == (1, 1)
    assert set(lists.mask_indices[0, 0, :, 0]) == {0}


def test_memory_is_bounded_while_it_is_made():
    def mask_mod(b, h, q_idx, kv_idx):
        assert np.size(q_idx) * np.size(kv_idx) <= 1 << 19
        return q_idx >= kv_idx

    mfa.create_block_mask(mask_mod, 1, 1, 256, 256)
    tracemalloc.start()
    mfa.create_block_mask(mask_mod, 1, 1, 8192, 8192)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8192 * 8192 / 8


def test_indexing_is_pytorchs(rng):
    mask_mod = mask_mods.by_head
    ours = mfa.create_block_mask(mask_mod, 3, 4, 75, 110, BLOCK_SIZE=16)
    theirs = flex.create_block_mask(mask_mod, 3, 4, 75, 110, device="cpu", BLOCK_SIZE=16)
    for index in (0, -1, (1, 2), slice(0, 2), (slice(None), -1, 2), (slice(1, 3), 1, [0, 3]), (0, [1, 2])):
        part = ours[index]
        expected = theirs[
            tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            if isinstance(index, tuple)
            else index
        ]
        for name in LISTS + BY_COLUMNS:
            np.testing.assert_array_equal(getattr(part, name), getattr(expected, name).numpy(), err_msg=name)
        assert part.shape == expected.shape
        with pytest.raises(ValueError, match="has no mask_mod of its own"):
            part.mask_mod(0, 0, 0, 0)


def test_a_part_hides_what_the_whole_hides_there(rng):
    dense = mask_mods.dense(mask_mods.by_head, (3, 4, 75, 110))
    whole = mfa.create_block_mask(mask_mods.by_head, 3, 4, 75, 110, BLOCK_SIZE=16)
    hides_what_it_should(whole[1:, 1], dense[1:, 1:2], rng)
    rows = whole[:, :, [1, 4]]
    rows.seq_lengths = (27, 110)  # the last block has 11 rows
    hides_what_it_should(rows, dense[:, :, [*range(16, 32), *range(64, 75)]], rng)


def test_a_part_takes_a_mask_mod_that_counts_from_it(rng):
    whole = mfa.create_block_mask(mask_mods.causal, 1, 1, 64, 64, BLOCK_SIZE=16)
    part = whole[:, :, 2]
    part.mask_mod = lambda b, h, q_idx, kv_idx: mask_mods.causal(b, h, q_idx + 32, kv_idx)
    part.seq_lengths = (16, 64)
    hides_what_it_should(part, mask_mods.dense(mask_mods.causal, (1, 1, 64, 64))[:, :, 32:48], rng)


def test_adjust_crops_to_the_upper_left_corner(rng):
    whole = mfa.create_block_mask(mask_mods.causal, 1, 1, 64, 64, BLOCK_SIZE=16)
    hides_what_it_should(whole._adjust(20, 37), mask_mods.dense(mask_mods.causal, (1, 1, 20, 37)), rng)


def test_lists_in_any_order_and_any_width(rng):
    """Behind those that count stands anything."""
    num_blocks = np.array([[2, 1, 3]], np.int32)
    indices = np.array([[[3, 0, -7, 99, 1, 0], [2, 2, 2, 2, 2, 2], [3, 1, 2, 0, 0, 0]]], np.int32)
    full_num_blocks = np.array([[1, 0, 1]], np.int32)
    full_indices = np.array([[[2], [77], [0]]], np.int32)
    block_mask = mfa.BlockMask.from_kv_blocks(
        num_blocks, indices, full_num_blocks, full_indices, BLOCK_SIZE=(8, 4), mask_mod=mask_mods.strided,
        seq_lengths=(20, 15),
    )  # fmt: skip
    strided = mask_mods.dense(mask_mods.strided, (1, 1, 20, 15))[0, 0]
    dense = np.zeros((1, 1, 24, 16), bool)
    for row, column in ((0, 3), (0, 0), (1, 2), (2, 3), (2, 1), (2, 2)):
        at = np.s_[0, 0, 8 * row : min(8 * row + 8, 20), 4 * column : min(4 * column + 4, 15)]
        dense[at] = strided[at[2:]]
    dense[0, 0, :8, 8:12] = dense[0, 0, 16:, :4] = True
    hides_what_it_should(block_mask, dense[:, :, :20, :15], rng)
    theirs = flex.BlockMask.from_kv_blocks(
        *(torch.from_numpy(x)[None] for x in (num_blocks, indices, full_num_blocks, full_indices)),
        BLOCK_SIZE=(8, 4), mask_mod=mask_mods.strided, seq_lengths=(20, 15), compute_q_blocks=False,
    )  # fmt: skip
    hides_what_it_should(theirs, dense[:, :, :20, :15], rng)


def test_lists_without_mask_mod_are_whole_blocks(rng):
    block_mask = mfa.BlockMask.from_kv_blocks(
        np.array([1, 2], np.int32), np.array([[1, 0], [0, 1]], np.int32), BLOCK_SIZE=8
    )
    assert block_mask.shape == (16, 16)
    dense = np.ones((1, 1, 16, 16), bool)
    dense[:, :, :8, :8] = False
    hides_what_it_should(block_mask, dense, rng)


def test_lists_are_its_own(rng):
    """What is made of them once would not change with them."""
    indices = np.array([[1, 0], [0, 1]], np.int32)
    block_mask = mfa.BlockMask.from_kv_blocks(np.array([1, 2], np.int32), indices, BLOCK_SIZE=8)
    dense = np.ones((1, 1, 16, 16), bool)
    dense[:, :, :8, :8] = False
    indices[0, 0] = 0
    hides_what_it_should(block_mask, dense, rng)
    with pytest.raises(ValueError, match="read-only"):
        block_mask.kv_indices[0, 0] = 0


def test_pytorchs_that_changes_is_looked_at_again(rng):
    theirs = flex.create_block_mask(mask_mods.causal, 1, 1, 64, 64, device="cpu", BLOCK_SIZE=16)
    hides_what_it_should(theirs, mask_mods.dense(mask_mods.causal, (1, 1, 64, 64)), rng)
    theirs.mask_mod = lambda b, h, q_idx, kv_idx: q_idx > kv_idx
    hides_what_it_should(theirs, mask_mods.dense(theirs.mask_mod, (1, 1, 64, 64)), rng)
    theirs.kv_num_blocks -= 1
    theirs.full_kv_num_blocks.zero_()
    hides_what_it_should(theirs, np.zeros((1, 1, 64, 64), bool), rng)


def test_pytorchs_empty_one_is_none(rng):
    theirs = flex._create_empty_block_mask(*torch.zeros(2, 1, 1, 5, 8))
    hides_what_it_should(theirs, np.ones((1, 1, 5, 9), bool), rng)


def test_bool_mask_hides_in_full_blocks_too(rng):
    block_mask = mfa.create_block_mask(mask_mods.causal, 1, 2, 70, 70, BLOCK_SIZE=16)
    mask = rng.random((70, 70)) < 0.7
    query, key, value = rng.standard_normal((3, 1, 2, 70, 8), dtype=np.float32)
    result = mfa.attention(query, key, value, layout="bhsd", block_mask=block_mask, mask=mask)
    dense = mask_mods.dense(mask_mods.causal, (1, 1, 70, 70)) & mask
    expected, _ = oracle.attention(query, key, value, bool_mask=dense)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_as_tuple_is_in_pytorchs_order():
    ours = mfa.create_block_mask(mask_mods.causal, 1, 2, 50, 60, BLOCK_SIZE=16)
    theirs = flex.create_block_mask(mask_mods.causal, 1, 2, 50, 60, device="cpu", BLOCK_SIZE=16)
    for flatten in (True, False):
        one, other = ours.as_tuple(flatten), theirs.as_tuple(flatten)
        assert len(one) == len(other)
        for x, y in zip(one, other, strict=True):
            assert np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y


def test_texts():
    block_mask = mfa.create_block_mask(mask_mods.causal, 1, 6, 50, 50, BLOCK_SIZE=16)
    text = str(block_mask)
    assert text.startswith("BlockMask(shape=(1, 6, 50, 50), sparsity=")
    assert "2 more" in text
    assert "mask_mod=causal" in repr(block_mask)


NUM, INDICES = np.array([[[1, 2]]], np.int32), np.array([[[[0, 0], [0, 1]]]], np.int32)


def made(num=NUM, indices=INDICES, full_num=None, full_indices=None, **options):
    return mfa.BlockMask.from_kv_blocks(num, indices, full_num, full_indices, **{"BLOCK_SIZE": 8, **options})


def raising(b, h, q_idx, kv_idx):
    raise KeyError("no such thing")


WRONG = {
    "index too large": (ValueError, r"kv_indices: 2 at \(0, 0, 1, 1\), expected 0 to 1",
                        lambda: made(indices=INDICES * 2)),
    "index negative": (ValueError, r"kv_indices: -1 at \(0, 0, 1, 1\)", lambda: made(indices=-INDICES)),
    "index repeated": (ValueError, r"kv_indices: 0 at \(0, 0, 1, 1\), expected each block once in a row",
                       lambda: made(indices=INDICES * 0)),
    "count too large": (ValueError, r"kv_num_blocks: 3 at \(0, 0, 1\), expected 0 to 2",
                        lambda: made(num=NUM + 1)),
    "count negative": (ValueError, r"kv_num_blocks: -1 at \(0, 0, 0\)", lambda: made(num=NUM - 2)),
    "counts of another dtype": (TypeError, "kv_num_blocks: dtype int64, expected int32",
                                lambda: made(num=NUM.astype(np.int64))),
    "indices of another dtype": (TypeError, "kv_indices: dtype float32, expected int32",
                                 lambda: made(indices=INDICES.astype(np.float32))),
    "no lists": (TypeError, "kv_num_blocks: list", lambda: made(num=[1, 2])),
    "one axis": (ValueError, "kv_indices: 1 dimensions, expected 2 to 4",
                 lambda: made(num=NUM[0, 0, 0], indices=INDICES[0, 0, 0])),
    "shapes that disagree": (ValueError, r"kv_num_blocks: shape \(1, 1, 1\), expected \(1, 1, 2\)",
                             lambda: made(num=NUM[..., :1])),
    "half of the full lists": (ValueError, "full_kv_num_blocks: given without", lambda: made(full_num=NUM)),
    "full lists of another shape": (ValueError, r"full_kv_num_blocks: shape \(1, 1, 1\), expected \(1,",
                                    lambda: made(full_num=NUM[..., :1], full_indices=INDICES[:, :, :1])),
    "full index too large": (ValueError, r"full_kv_indices: 2 at",
                             lambda: made(full_num=NUM, full_indices=INDICES * 2)),
    "block size 0": (ValueError, "BLOCK_SIZE: 0, expected 1 or more", lambda: made(BLOCK_SIZE=0)),
    "block size of three": (ValueError, r"BLOCK_SIZE: \(1, 2, 3\)", lambda: made(BLOCK_SIZE=(1, 2, 3))),
    "block size no number": (TypeError, "BLOCK_SIZE: 8.0", lambda: made(BLOCK_SIZE=8.0)),
    "lengths": (TypeError, "seq_lengths: 5, expected", lambda: made(seq_lengths=5)),
    "negative length": (ValueError, "seq_lengths: -1, expected 0", lambda: made(seq_lengths=(16, -1))),
    "mask_mod no function": (TypeError, "mask_mod: 3, expected a function", lambda: made(mask_mod=3)),
    "mask_mod that raises": (ValueError, "mask_mod: raising failed: KeyError: 'no such thing'",
                             lambda: mfa.create_block_mask(raising, 1, 1, 8, 8)),
    "mask_mod of numbers": (TypeError, "returned int64, expected bool",
                            lambda: mfa.create_block_mask(lambda b, h, q, k: q - k, 1, 1, 8, 8)),
    "mask_mod of more axes": (ValueError, "returned 5 axes",
                              lambda: mfa.create_mask(lambda b, h, q, k: (q > k)[..., None], 1, 1, 8, 8)),
    "and_masks of none": (TypeError, "mask_mods: 7 at 1, expected a function",
                          lambda: mfa.and_masks(mask_mods.causal, 7)),
    "negative size": (ValueError, "Q_LEN: -1, expected 0",
                      lambda: mfa.create_block_mask(mask_mods.causal, 1, 1, -1, 8)),
    "another device": (ValueError, "device: 'cuda', expected 'cpu'",
                       lambda: mfa.create_block_mask(mask_mods.causal, 1, 1, 8, 8, device="cuda")),
    "four indices": (IndexError, "4 indices", lambda: made()[0, 0, 0, 0]),
    "broken index": (IndexError, "1.5, expected integers", lambda: made()[0, 1.5]),
    "lengths that are set": (TypeError, "seq_lengths: 'a', expected an integer",
                             lambda: setattr(made(), "seq_lengths", "ab")),
    "block size that is set": (ValueError, "BLOCK_SIZE: 0, expected 1 or more",
                               lambda: setattr(made(), "BLOCK_SIZE", 0)),
}  # fmt: skip


@pytest.mark.parametrize(("error", "message", "call"), WRONG.values(), ids=WRONG)
def test_wrong_argument_is_named(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_mask_mod_that_reduces_is_found_out_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"mod_fn: <lambda> failed: .* not each of one pair alone"):
        mfa.create_mask(lambda b, h, q_idx, kv_idx: (q_idx > kv_idx).any(), 1, 1, 8, 8)


def test_lengths_and_block_size_may_be_set_as_they_may_be_given():
    block_mask = mfa.create_block_mask(mask_mods.causal, None, None, 16, 16, BLOCK_SIZE=8)
    expected = mfa.attention(ARRAY, ARRAY, ARRAY, block_mask=block_mask)
    block_mask.seq_lengths, block_mask.BLOCK_SIZE = [16, 16], 8
    np.testing.assert_array_equal(mfa.attention(ARRAY, ARRAY, ARRAY, block_mask=block_mask), expected)


def test_nothing_can_be_shown():
    block_mask = mfa.create_block_mask(mask_mods.causal, None, None, 0, 16)
    assert block_mask.sparsity() == 0
    assert "sparsity=0.00%" in repr(block_mask)


def test_lists_that_do_not_fit_sequences_are_named():
    block_mask = mfa.create_block_mask(mask_mods.causal, None, None, 4, 6, BLOCK_SIZE=4)
    starts = np.array([0, 6, 16], np.int32)
    rows = ARRAY[0]
    with pytest.raises(ValueError, match=r"^block_mask\.kv_num_blocks has shape"):
        mfa.attention(rows, rows, rows, cu_seqlens_q=starts, cu_seqlens_k=starts, block_mask=block_mask)
    sparsity = mfa.SparsityPattern.custom(np.ones((1, 2), bool), 4)
    with pytest.raises(ValueError, match=r"^sparsity has shape"):
        mfa.attention(rows, rows, rows, cu_seqlens_q=starts, cu_seqlens_k=starts, sparsity=sparsity)


ARRAY = np.ones((2, 16, 3, 4), np.float32)
WRONG_FOR_CALL = {
    "no BlockMask": (TypeError, "block_mask: 'causal', expected a BlockMask", lambda: "causal"),
    "other lengths": (ValueError, "block_mask: of 16 queries and 24 keys, expected 16 and 16",
                      lambda: made(seq_lengths=(16, 24))),
    "other heads": (ValueError, r"block_mask: kv_num_blocks has shape \(1, 2, 2\), expected \(2, 3, 2\)",
                    lambda: made(num=NUM.repeat(2, 1), indices=INDICES.repeat(2, 1))),
    "other rows": (ValueError, r"block_mask: kv_num_blocks has shape \(1, 1, 1\), expected \(2, 3, 2\)",
                   lambda: made(num=NUM[..., 1:], indices=INDICES[:, :, 1:], seq_lengths=(16, 16))),
    "listed twice": (ValueError, r"block_mask: True at \(0, 0, 0, 0\), expected each block in one",
                     lambda: made(full_num=NUM, full_indices=INDICES)),
}  # fmt: skip


@pytest.mark.parametrize(("error", "message", "block_mask"), WRONG_FOR_CALL.values(), ids=WRONG_FOR_CALL)
def test_block_mask_that_does_not_fit_is_named(error, message, block_mask):
    for function in (mfa.attention, mfa.plan):
        with pytest.raises(error, match=message):
            function(ARRAY, ARRAY, ARRAY, block_mask=block_mask())

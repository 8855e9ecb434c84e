"""FlexAttention's BlockMask: which blocks of the scores count, and what hides pairs inside them."""

import itertools
import math
import sys
import weakref
from collections.abc import Callable
from typing import Any

import numpy

from mfa import _block_lists, _keywords
from mfa._block_lists import BlockLists, block_size_of, fitted, with_four_axes
from mfa._mask_mods import EvaluatedMask, is_noop, name_of, noop_mask
from mfa._mask_tiles import MaskTiles, tiles_of_lists, visible_blocks
from mfa._messages import shown

LARGE_BLOCK = 1 << 30  # of the BlockMask with which PyTorch says that there is none


def sliced_mask_mod(b, h, q_idx, kv_idx):
    """Stands where a part of a BlockMask has none, since indices would count from elsewhere."""
    raise ValueError("a part of a BlockMask has no mask_mod of its own; set one that counts from the part")


class BlockMask:
    """Blocks of the scores that count, as FlexAttention lists them.

    Made by `create_block_mask` or `from_kv_blocks`. Lists are NumPy arrays of int32, and what lies behind the
    number of entries that count means nothing. `mask_mod` is evaluated once, in the blocks that `kv_indices`
    lists, and those masks are kept: a BlockMask is to be made anew if what its mask_mod reads has changed.

    Attributes
    ----------
    seq_lengths : (int, int)
        Queries and keys.
    kv_num_blocks, kv_indices : arrays (B, H, rows of blocks), (B, H, rows of blocks, n)
        In each row of blocks, how many count and which, apart from the full ones. B and H may be 1 for any.
    full_kv_num_blocks, full_kv_indices : arrays or None
        Further blocks, in which every pair attends.
    q_num_blocks, q_indices, full_q_num_blocks, full_q_indices : arrays or None
        The same by columns of blocks.
    BLOCK_SIZE : (int, int)
        Queries and keys of a block.
    mask_mod : function
        Of (b, h, q_idx, kv_idx): which pairs of the partial blocks attend.
    dq_write_order, dq_write_order_full, dq_kv_order, dq_kv_order_spt : None
        Which PyTorch's has for its CUDA kernels.
    """

    _torch_first = False  # mask_mod is asked with tensors first
    dq_write_order = dq_write_order_full = dq_kv_order = dq_kv_order_spt = None

    def __init__(
        self,
        seq_lengths: tuple[int, int],
        kv_num_blocks: Any,
        kv_indices: Any,
        full_kv_num_blocks: Any,
        full_kv_indices: Any,
        q_num_blocks: Any = None,
        q_indices: Any = None,
        full_q_num_blocks: Any = None,
        full_q_indices: Any = None,
        BLOCK_SIZE: int | tuple[int, int] = 128,
        mask_mod: Callable[..., Any] = noop_mask,
    ):
        self.seq_lengths, self.BLOCK_SIZE = seq_lengths, BLOCK_SIZE
        columns = math.ceil(self.seq_lengths[1] / self.BLOCK_SIZE[1])
        self.kv_num_blocks, self.kv_indices = _block_lists.checked(kv_num_blocks, kv_indices, columns)
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            names = "full_kv_num_blocks", "full_kv_indices"
            given, missing = names if full_kv_indices is None else names[::-1]
            raise ValueError(f"{given}: given without {missing}, expected both or none")
        self.full_kv_num_blocks = self.full_kv_indices = None
        if full_kv_num_blocks is not None:
            self.full_kv_num_blocks, self.full_kv_indices = _block_lists.checked(
                full_kv_num_blocks, full_kv_indices, columns, "full_"
            )
            if self.full_kv_num_blocks.shape != self.kv_num_blocks.shape:
                raise ValueError(
                    f"full_kv_num_blocks: shape {self.full_kv_num_blocks.shape}, "
                    f"expected {self.kv_num_blocks.shape} as kv_num_blocks has"
                )
        self.q_num_blocks, self.q_indices = q_num_blocks, q_indices
        self.full_q_num_blocks, self.full_q_indices = full_q_num_blocks, full_q_indices
        if not callable(mask_mod):
            raise TypeError(f"mask_mod: {shown(mask_mod)}, expected a function")
        self.mask_mod = mask_mod

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Any,
        kv_indices: Any,
        full_kv_num_blocks: Any = None,
        full_kv_indices: Any = None,
        BLOCK_SIZE: int | tuple[int, int] = 128,
        mask_mod: Callable[..., Any] | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
    ) -> "BlockMask":
        """A BlockMask of lists, which may be in any order and as wide as one likes.

        Parameters are as the attributes; `seq_lengths` is by default what the shape of `kv_indices` says.
        """
        block_size = block_size_of(BLOCK_SIZE)
        if seq_lengths is None:
            shape = numpy.shape(kv_indices)[-2:]
            if len(shape) < 2:
                raise ValueError(f"kv_indices: {len(shape)} dimensions, expected 2 to 4")
            seq_lengths = shape[0] * block_size[0], shape[1] * block_size[1]
        mask_mod = noop_mask if mask_mod is None else mask_mod
        lists = kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices
        result = cls(seq_lengths, *lists, BLOCK_SIZE=block_size, mask_mod=mask_mod)
        if compute_q_blocks:
            result.q_num_blocks, result.q_indices = result._by_columns()
            if full_kv_indices is not None:
                result.full_q_num_blocks, result.full_q_indices = result._by_columns("full_")
        return result

    def __setattr__(self, name, value):
        if name == "seq_lengths":
            value = lengths_of(value)
        elif name == "BLOCK_SIZE":
            value = block_size_of(value)
        super().__setattr__(name, value)
        self.__dict__["_lists"] = {}
        # A part that is given lengths of its own keeps what hides pairs in its blocks, having no mask_mod.
        if not (name == "seq_lengths" and self.__dict__.get("mask_mod") is sliced_mask_mod):
            self.__dict__["_tiles"] = None  # (masks, mask_indices, whether they depend on batch and head)

    def _columns(self):
        return math.ceil(self.seq_lengths[1] / self.BLOCK_SIZE[1])

    def _dense(self, prefix=""):
        lists = getattr(self, f"{prefix}kv_num_blocks"), getattr(self, f"{prefix}kv_indices")
        return _block_lists.dense(*lists, self._columns())

    def _by_columns(self, prefix=""):
        return _block_lists.ordered(self._dense(prefix).swapaxes(-1, -2))

    @property
    def shape(self):
        """(B, H, queries, keys)"""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def numel(self):
        """How many scores it is about, whether they count or not."""
        return math.prod(self.shape)

    def sparsity(self):
        """The percentage of the scores that lie in no block that counts; 0 where there are none."""
        if self.numel() == 0:
            return 0.0
        counted = int(self.kv_num_blocks.sum())
        if self.full_kv_num_blocks is not None:
            counted += int(self.full_kv_num_blocks.sum())
        return 100 * (1 - counted * math.prod(self.BLOCK_SIZE) / self.numel())

    def to_dense(self):
        """Array (B, H, rows of blocks, columns of blocks) of int32: 1 where a block counts."""
        result = self._dense()
        if self.full_kv_num_blocks is not None:
            result |= self._dense("full_")
        return result.astype(numpy.int32)

    def to_string(self, grid_size=(20, 20), limit=4):
        """A picture of each head, `limit` of them at the most: blocks that count are dark.

        Where there are more blocks than `grid_size`, a cell stands for several, and is grey if only some of
        them count. -1 is no bound.
        """
        dense = self.to_dense()
        bounds = grid_size if isinstance(grid_size, tuple) else (grid_size, grid_size)
        steps = [
            max(1, math.ceil(size / bound)) if bound > 0 else 1
            for size, bound in zip(dense.shape[-2:], bounds, strict=True)
        ]
        pictures = []
        for head in itertools.product(*map(range, dense.shape[:-2])):
            if len(pictures) == limit:
                pictures.append(f"...\n{math.prod(dense.shape[:-2]) - limit} more: to_string(limit=...)")
                break
            pictures.append(f"{head}\n{picture(dense[head], *steps)}")
        return "\n".join(pictures)

    def __str__(self):
        return (
            f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%,\n{self.to_string().strip()}\n)"
        )

    def __repr__(self):
        name = name_of(self.mask_mod)
        lists = f"kv_indices={self.kv_indices.shape}, full_kv_indices={numpy.shape(self.full_kv_indices)}"
        return (
            f"BlockMask(shape={self.shape}, BLOCK_SIZE={self.BLOCK_SIZE}, {lists}, "
            f"sparsity={self.sparsity():.2f}%, mask_mod={name})"
        )

    def as_tuple(self, flatten=True):
        """All attributes, in PyTorch's order; lengths and block sizes as two numbers each if `flatten`."""
        lengths, block_size = (
            (self.seq_lengths, self.BLOCK_SIZE) if flatten else ((self.seq_lengths,), (self.BLOCK_SIZE,))
        )
        return (
            *lengths,
            self.kv_num_blocks,
            self.kv_indices,
            self.full_kv_num_blocks,
            self.full_kv_indices,
            self.q_num_blocks,
            self.q_indices,
            self.full_q_num_blocks,
            self.full_q_indices,
            self.dq_write_order,
            self.dq_write_order_full,
            self.dq_kv_order,
            self.dq_kv_order_spt,
            *block_size,
            self.mask_mod,
        )

    def to(self, device):
        """Itself: there is none for another device."""
        require_cpu(device)
        return self

    def __getitem__(self, index):
        """The part for some batches, heads and rows of blocks; a number keeps its axis.

        What hides pairs inside blocks stays as it was, so that the part can be used as it is. A mask_mod that
        is set takes its place. `seq_lengths` is left as it is, as in PyTorch: set it for a part of the rows.
        """
        index = index if isinstance(index, tuple) else (index,)
        if len(index) > 3:
            raise IndexError(f"{len(index)} indices, expected at most 3: batch, head and row of blocks")
        index = tuple(keeping_axis(i) for i in index)
        lists = [self.kv_num_blocks, self.kv_indices, self.full_kv_num_blocks, self.full_kv_indices]
        lists = [None if array is None else array[index] for array in lists]
        part = type(self).from_kv_blocks(
            *lists,
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=noop_mask if is_noop(self.mask_mod) else sliced_mask_mod,
            seq_lengths=self.seq_lengths,
            compute_q_blocks=self.q_indices is not None,
        )
        if not is_noop(self.mask_mod):
            masks, numbers, _ = self._own_tiles()
            if numbers is not None:
                numbers = numpy.broadcast_to(numbers, with_four_axes(self.kv_indices, 4).shape)
                numbers = numbers.reshape(self.kv_indices.shape)[index]
                numbers = with_four_axes(numbers, 4)
            part.__dict__["_tiles"] = masks, numbers, (False, False)
        return part

    def _adjust(self, new_q_len, new_kv_len):
        """The upper left corner, for fewer queries and keys: right for a mask_mod that counts from there."""
        rows, columns = (
            math.ceil(length / size)
            for length, size in zip((new_q_len, new_kv_len), self.BLOCK_SIZE, strict=True)
        )
        lists = []
        for prefix in ("", "full_"):
            if getattr(self, f"{prefix}kv_indices") is None:
                lists += [None, None]
            else:
                lists += _block_lists.ordered(self._dense(prefix)[..., :rows, :columns])
        return type(self).from_kv_blocks(
            *lists, BLOCK_SIZE=self.BLOCK_SIZE, mask_mod=self.mask_mod, seq_lengths=(new_q_len, new_kv_len)
        )

    def _evaluated(self, batch, heads):
        """(masks, mask_indices, whether they depend on batch and head) of the partial blocks."""
        shape = batch, heads, *self.seq_lengths
        mask_mod = EvaluatedMask(self.mask_mod, shape, torch_first=self._torch_first)
        block_size = fitted(self.BLOCK_SIZE, self.seq_lengths)
        return (*tiles_of_lists(mask_mod, *self._pair(""), block_size, shape), mask_mod.depends[:2])

    def _own_tiles(self):
        if self._tiles is None:
            self.__dict__["_tiles"] = self._evaluated(*with_four_axes(self.kv_indices, 4).shape[:2])
        return self._tiles

    def _tiles_for(self, batch, heads):
        """(masks, mask_indices). Lists may be shared where what hides pairs depends on batch and head."""
        if is_noop(self.mask_mod):
            return None, None
        masks, numbers, depends = self._own_tiles()
        counts = with_four_axes(self.kv_indices, 4).shape[:2]
        for count, size, dependent in zip(counts, (batch, heads), depends, strict=True):
            if count == 1 < size and dependent:
                masks, numbers, _ = self._evaluated(batch, heads)
        return masks, numbers

    def lists(self, shape, full_apart):
        """The BlockLists of a call whose scores have `shape`; with full blocks among the others, or apart."""
        found = self._lists.get((shape, full_apart))
        if found is None:
            self._lists[shape, full_apart] = found = self._lists_for(*shape, full_apart)
        return found

    def _lists_for(self, batch, heads, queries, keys, full_apart):
        if self.seq_lengths != (queries, keys):
            raise ValueError(
                f"block_mask: of {self.seq_lengths[0]} queries and {self.seq_lengths[1]} keys, "
                f"expected {queries} and {keys}"
            )
        rows = math.ceil(queries / self.BLOCK_SIZE[0])
        own = with_four_axes(self.kv_indices, 4).shape[:3]
        if own[0] not in (1, batch) or own[1] not in (1, heads) or own[2] != rows:
            raise ValueError(
                f"block_mask: kv_num_blocks has shape {self.kv_num_blocks.shape}, "
                f"expected {(batch, heads, rows)}, or 1 for batch and heads"
            )
        masks, numbers = self._tiles_for(batch, heads)
        lists, full = self._pair(""), None
        if self.full_kv_indices is not None:
            twice = self._dense() & self._dense("full_")
            expected = "each block in one of kv_indices and full_kv_indices"
            _block_lists.refuse("block_mask", twice, twice, expected)
            full = self._pair("full_")
        together = (lists,) if full is None or full_apart else (lists, full)
        num_blocks, indices, order = _block_lists.ascending(*together)
        if numbers is not None:
            none = numpy.full((*numbers.shape[:3], indices.shape[-1] - numbers.shape[-1]), -1, numpy.int32)
            numbers = numpy.concatenate([numbers, none], axis=-1)
            numbers, order = numpy.broadcast_arrays(numbers, order)
            numbers = numpy.take_along_axis(numbers, order, axis=-1)
            indices = numpy.broadcast_to(indices, numbers.shape)
            num_blocks = numpy.broadcast_to(num_blocks, numbers.shape[:3])
        full = _block_lists.ascending(full)[:2] if full is not None and full_apart else (None, None)
        size = fitted(self.BLOCK_SIZE, self.seq_lengths)
        if masks is not None:
            masks = masks[:, :, : size[0], : size[1]]
            if masks.shape[2:] != size:
                raise ValueError(f"seq_lengths: {self.seq_lengths}, expected no more than the whole mask had")
        return BlockLists(size, num_blocks, indices, *full, masks, numbers)

    def _pair(self, prefix):
        """(num_blocks, indices), with a batch and a head axis, which are 1 where all share the lists."""
        num_blocks, indices = getattr(self, f"{prefix}kv_num_blocks"), getattr(self, f"{prefix}kv_indices")
        num_blocks, indices = with_four_axes(num_blocks, 3), with_four_axes(indices, 4)
        once = tuple(
            slice(1) if strides == (0, 0) else slice(None)
            for strides in zip(num_blocks.strides[:2], indices.strides[:2], strict=True)
        )
        return num_blocks[once], indices[once]


def keeping_axis(index):
    """A slice in place of a number, and an array of NumPy's in place of another."""
    if isinstance(index, slice):
        return index
    indices = numpy.asarray(index)
    if indices.dtype.kind not in "iub":
        raise IndexError(f"{shown(index)}, expected integers, slices and arrays of integers")
    return slice(int(indices), int(indices) + 1 or None) if indices.ndim == 0 else indices


def picture(dense, row_step, column_step):
    """One line of text for each `row_step` rows of blocks."""
    lines = []
    for row in range(0, dense.shape[0], row_step):
        cells = []
        for column in range(0, dense.shape[1], column_step):
            counted = dense[row : row + row_step, column : column + column_step]
            cells.append("█" if counted.all() else "░" if counted.any() else " ")
        lines.append("".join(cell * 2 for cell in cells) + "\n")
    return "".join(lines)


def lengths_of(value):
    try:
        queries, keys = value
    except MemoryError:
        raise
    except Exception:  # whatever an iterable of the caller's raises
        raise TypeError(f"seq_lengths: {shown(value)}, expected (queries, keys)") from None
    return size_of(queries, "seq_lengths"), size_of(keys, "seq_lengths")


def size_of(value, name):
    value = _keywords.integer(value, name)
    if not 0 <= value < 2**31:
        raise ValueError(f"{name}: {shown(value)}, expected 0 to {2**31 - 1}")
    return value


def create_block_mask(
    mask_mod: Callable[..., Any],
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: Any = "cpu",
    BLOCK_SIZE: int | tuple[int, int] = 128,
    _compile: bool = False,
    separate_full_blocks: bool = True,
) -> BlockMask:
    """The `BlockMask` of a mask_mod, in memory bounded but for the lists and the masks of partial blocks.

    Parameters
    ----------
    mask_mod : function of (b, h, q_idx, kv_idx)
        Which pairs attend: a bool array. It is called with int64 arrays that broadcast to (B, H, queries,
        keys) of a part of the scores: NumPy's, or torch's where it fails with those or answers with a tensor.
    B, H : int or None
        None is 1, which goes with any number.
    Q_LEN, KV_LEN : int
    device : "cpu" or None
    BLOCK_SIZE : int or (int, int), default 128
        Queries and keys of a block.
    _compile : bool
        Ignored.
    separate_full_blocks : bool, default True
        Blocks in which all pairs attend are listed apart, as full ones.

    Returns
    -------
    BlockMask

    Examples
    --------
    >>> import mfa
    >>> causal = mfa.create_block_mask(lambda b, h, q_idx, kv_idx: q_idx >= kv_idx, None, None, 512, 512)
    >>> causal.sparsity()
    37.5
    """
    require_cpu(device)
    _keywords.flag(_compile, "_compile")
    separate_full_blocks = _keywords.flag(separate_full_blocks, "separate_full_blocks")
    shape = shape_of(B, H, Q_LEN, KV_LEN)
    block_size = block_size_of(BLOCK_SIZE)
    size = fitted(block_size, shape[2:])
    evaluated = EvaluatedMask(mask_mod, shape)
    tiles = MaskTiles(size)
    heads = [
        count if depends else min(count, 1)
        for count, depends in zip(shape[:2], evaluated.depends, strict=False)
    ]
    blocks = [math.ceil(length / most) for length, most in zip(shape[2:], size, strict=True)]
    partial, full = numpy.zeros((2, *heads, *blocks), bool)
    numbers = numpy.full(partial.shape, -1, numpy.int32)
    columns = numpy.arange(blocks[1])
    for head_and_row in numpy.ndindex(*partial.shape[:3]):
        *head, row = head_and_row
        for column, visible in visible_blocks(evaluated, head, row, columns, size, shape):
            at = (*head_and_row, column)
            if not visible.any():
                continue
            numbers[at] = tiles.number(visible)
            full[at] = separate_full_blocks and numbers[at] < 0 and visible.shape == block_size
            partial[at] = not full[at]
    lists = [
        numpy.broadcast_to(array, (*shape[:2], *array.shape[2:]))
        for dense in ((partial, full) if separate_full_blocks else (partial,))
        for array in _block_lists.ordered(dense)
    ]
    result = BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=block_size, mask_mod=mask_mod, seq_lengths=shape[2:])
    masks = tiles.masks()
    if masks is not None:
        numbers = numpy.take_along_axis(numbers, _block_lists.ordered(partial)[1], axis=-1)
    result.__dict__["_tiles"] = masks, None if masks is None else numbers, evaluated.depends[:2]
    return result


def create_mask(
    mod_fn: Callable[..., Any], B: int | None, H: int | None, Q_LEN: int, KV_LEN: int, device: Any = "cpu"
) -> numpy.ndarray:
    """The whole bool array (B, H, Q_LEN, KV_LEN) of a mask_mod: for looking at, not for large sizes.

    Parameters
    ----------
    mod_fn, B, H, Q_LEN, KV_LEN, device
        As the first of `create_block_mask`.
    """
    require_cpu(device)
    shape = shape_of(B, H, Q_LEN, KV_LEN)
    mask_mod = EvaluatedMask(mod_fn, shape, name="mod_fn")
    return numpy.array(numpy.broadcast_to(mask_mod(*map(numpy.arange, shape)), shape))


def shape_of(B, H, Q_LEN, KV_LEN):
    batch, heads = (1 if size is None else size_of(size, name) for size, name in ((B, "B"), (H, "H")))
    return batch, heads, size_of(Q_LEN, "Q_LEN"), size_of(KV_LEN, "KV_LEN")


def require_cpu(device):
    if device is not None and shown(device) not in ("'cpu'", "device(type='cpu')"):
        raise ValueError(f"device: {shown(device)}, expected 'cpu'")


def blocks_of_call(block_mask, batch, heads, lengths, full_apart):
    """The BlockLists of a call; None where `block_mask` is PyTorch's for no mask.

    `lengths` are (queries, keys), or None if only lists say how many a sequence has. Unless they stand apart,
    full blocks are looked at like others, as they are to be where there is a bool mask besides.
    """
    if isinstance(block_mask, BlockLists):
        if block_mask.block_mask is not None and lengths is not None:
            require_blocks(block_mask, (batch, heads, *lengths))
        return block_mask
    block_mask = known_block_mask(block_mask)
    if block_mask is None:
        return None
    return block_mask.lists((batch, heads, *(lengths or block_mask.seq_lengths)), full_apart)


def require_blocks(lists, shape):
    *heads, rows, columns = lists.block_mask.shape
    expected = tuple(
        math.ceil(length / size) for length, size in zip(shape[2:], lists.block_size, strict=True)
    )
    fits = all(count in (1, size) for count, size in zip(heads, shape[:2], strict=True))
    if not fits or (rows, columns) != expected:
        raise ValueError(
            f"block_mask: shape {lists.block_mask.shape}, expected {(*shape[:2], *expected)}, "
            "or 1 for batch and heads"
        )


# PyTorch's objects and ours of the same, for as long as those live.
_made_of = weakref.WeakKeyDictionary()


def known_block_mask(block_mask):
    """A BlockMask, which PyTorch's is made into; None for what PyTorch means to be none."""
    if isinstance(block_mask, BlockMask):
        return block_mask
    flex_attention = sys.modules.get("torch.nn.attention.flex_attention")
    if flex_attention is None or not isinstance(block_mask, flex_attention.BlockMask):
        raise TypeError(f"block_mask: {shown(block_mask)}, expected a BlockMask of mfa or PyTorch")
    if tuple(block_mask.BLOCK_SIZE) == (LARGE_BLOCK, LARGE_BLOCK):
        return None
    names = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
    lists = [getattr(block_mask, name) for name in names]
    state = (
        *((array, None if array is None else array._version) for array in lists),
        (block_mask.mask_mod, (*block_mask.seq_lengths, *block_mask.BLOCK_SIZE)),
    )
    known = _made_of.get(block_mask)
    if known is None or not all(a is b and c == d for (a, c), (b, d) in zip(known[0], state, strict=True)):
        ours = BlockMask.from_kv_blocks(
            *lists,
            BLOCK_SIZE=tuple(block_mask.BLOCK_SIZE),
            mask_mod=block_mask.mask_mod,
            seq_lengths=tuple(block_mask.seq_lengths),
            compute_q_blocks=False,
        )
        ours._torch_first = True
        known = _made_of[block_mask] = state, ours
    return known[1]

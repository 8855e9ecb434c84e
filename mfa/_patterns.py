"""Block masks that many models have, made from blocks: no array of queries by keys is looked at."""

import math
from typing import Any, NamedTuple

import numpy

from mfa import _keywords
from mfa._block_lists import block_size_of, ordered, with_four_axes
from mfa._block_mask import BlockMask, size_of
from mfa._mask_mods import and_masks, or_masks
from mfa._memory import as_ndarray
from mfa._messages import brief, shown


class Part(NamedTuple):
    """A mask_mod, and of each block whether some of its pairs may attend and whether all of them do."""

    mask_mod: Any
    some: numpy.ndarray
    every: numpy.ndarray

    def __or__(self, other):
        return Part(or_masks(self.mask_mod, other.mask_mod), self.some | other.some, self.every | other.every)

    def __and__(self, other):
        return Part(
            and_masks(self.mask_mod, other.mask_mod), self.some & other.some, self.every & other.every
        )

    def block_mask(self, grid):
        every = self.every & self.some
        lists = (*ordered(self.some & ~every), *ordered(every))
        return BlockMask.from_kv_blocks(
            *(array.reshape((1,) * (4 - self.some.ndim) + array.shape) for array in lists),
            BLOCK_SIZE=grid.block_size,
            mask_mod=self.mask_mod,
            seq_lengths=(grid.length, grid.length),
        )


class Grid:
    """First and last query of each row of blocks, and first and last key of each column."""

    def __init__(self, length, block_size):
        self.length = size_of(length, "length")
        self.block_size = block_size_of(block_size, "block_size")
        self.shape = tuple(math.ceil(self.length / size) for size in self.block_size)
        (self.first_q, self.last_q), (self.first_k, self.last_k) = (
            (
                numpy.arange(0, self.length, size),
                numpy.minimum(numpy.arange(size, self.length + size, size), self.length) - 1,
            )
            for size in self.block_size
        )
        self.first_q, self.last_q = self.first_q[:, None], self.last_q[:, None]

    def band(self, behind, ahead):
        """Keys from `behind` before the row's own to `ahead` after it; None is no bound."""
        behind = self.length if behind is None else behind
        ahead = self.length if ahead is None else ahead

        def within(b, h, q_idx, kv_idx):
            return (q_idx - kv_idx <= behind) & (kv_idx - q_idx <= ahead)

        some = (self.first_k - self.last_q <= ahead) & (self.first_q - self.last_k <= behind)
        every = (self.last_k - self.first_q <= ahead) & (self.last_q - self.first_k <= behind)
        return Part(within, some, every)

    def first_keys(self, count):
        def global_keys(b, h, q_idx, kv_idx):
            return kv_idx < count

        return Part(
            global_keys, *(numpy.broadcast_to(k < count, self.shape) for k in (self.first_k, self.last_k))
        )

    def first_queries(self, count):
        def global_queries(b, h, q_idx, kv_idx):
            return q_idx < count

        return Part(
            global_queries, *(numpy.broadcast_to(q < count, self.shape) for q in (self.first_q, self.last_q))
        )


def causal(length: int, *, block_size: Any = 128) -> BlockMask:
    """No key after the row's own."""
    grid = Grid(length, block_size)
    return grid.band(None, 0).block_mask(grid)


def sliding_window(length: int, width: int, *, block_size: Any = 128) -> BlockMask:
    """The last `width` keys, the row's own included."""
    grid = Grid(length, block_size)
    return grid.band(positive(width, "width") - 1, 0).block_mask(grid)


def longformer(
    length: int, window: int, global_tokens: int = 0, *, causal: bool = False, block_size: Any = 128
) -> BlockMask:
    """Longformer (Beltagy et al., 2020): a window, and some tokens that see and are seen by all.

    Parameters
    ----------
    length : int
        Queries, and as many keys.
    window : int
        Row i sees keys from ``i - window // 2`` to ``i + window // 2``.
    global_tokens : int, default 0
        The first ones of the sequence.
    causal : bool, default False
        No key after the row's own besides.
    block_size : int or (int, int), default 128
    """
    grid = Grid(length, block_size)
    half = positive(window, "window") // 2
    count = size_of(global_tokens, "global_tokens")
    part = grid.band(half, half) | grid.first_keys(count) | grid.first_queries(count)
    return (part & grid.band(None, 0) if _keywords.flag(causal, "causal") else part).block_mask(grid)


def bigbird(
    length: int,
    window_blocks: int = 3,
    global_blocks: int = 1,
    random_blocks: int = 3,
    *,
    seed: int = 0,
    block_size: Any = 64,
) -> BlockMask:
    """BigBird (Zaheer et al., 2020): whole blocks in a window, for all, and at random.

    Parameters
    ----------
    length : int
        Queries, and as many keys.
    window_blocks : int, default 3
        A row of blocks sees so many around its own, half of them on either side.
    global_blocks : int, default 1
        The first and the last so many rows and columns of blocks count whole.
    random_blocks : int, default 3
        Further ones in each row, drawn among the others by NumPy's default generator from `seed`.
    seed : int, default 0
    block_size : int or (int, int), default 64
    """
    grid = Grid(length, block_size)
    half = size_of(window_blocks, "window_blocks") // 2
    edge = size_of(global_blocks, "global_blocks")
    count = size_of(random_blocks, "random_blocks")
    rows, columns = (numpy.arange(size) for size in grid.shape)
    own = grid.first_q // grid.block_size[1]  # the column in which a row of blocks begins
    blocks = abs(own - columns) <= half
    blocks |= (rows[:, None] < edge) | (rows[:, None] >= len(rows) - edge)
    blocks |= (columns < edge) | (columns >= len(columns) - edge)
    generator = numpy.random.default_rng(_keywords.word(seed, "seed"))
    for row in blocks:
        others = numpy.flatnonzero(~row)
        row[generator.choice(others, min(count, len(others)), replace=False)] = True

    def listed(b, h, q_idx, kv_idx):
        return blocks[q_idx // grid.block_size[0], kv_idx // grid.block_size[1]]

    return Part(listed, blocks, blocks).block_mask(grid)


def documents(ids: Any, *, causal: bool = False, block_size: Any = 128) -> BlockMask:
    """Several documents in one sequence, each of which sees itself only.

    Parameters
    ----------
    ids : array (N) or (B, N) of integers
        The document of each token; in any order, but documents that lie together are what makes blocks empty.
    causal : bool, default False
        No key after the row's own besides.
    block_size : int or (int, int), default 128
    """
    ids = as_ndarray(ids, "ids")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"ids: dtype {brief(str(ids.dtype))}, expected integers")
    if not 1 <= ids.ndim <= 2:
        raise ValueError(f"ids: {ids.ndim} dimensions, expected 1 or 2")
    grid = Grid(ids.shape[-1], block_size)
    ids = with_four_axes(ids, 2)

    def same_document(b, h, q_idx, kv_idx):
        b = b if len(ids) > 1 else 0
        return ids[b, q_idx] == ids[b, kv_idx]

    def ranges(starts):
        starts = starts.reshape(-1)
        if not len(starts):
            return numpy.zeros((2, len(ids), 0), ids.dtype)
        return numpy.minimum.reduceat(ids, starts, axis=1), numpy.maximum.reduceat(ids, starts, axis=1)

    low_q, high_q = (x[:, None, :, None] for x in ranges(grid.first_q))
    low_k, high_k = (x[:, None, None, :] for x in ranges(grid.first_k))
    some = (low_q <= high_k) & (low_k <= high_q)
    part = Part(same_document, some, (low_q == high_k) & (low_k == high_q))
    return (part & grid.band(None, 0) if _keywords.flag(causal, "causal") else part).block_mask(grid)


def prefix_lm(length: int, prefix: int, *, block_size: Any = 128) -> BlockMask:
    """Causal, but that all rows see the first `prefix` keys."""
    grid = Grid(length, block_size)
    return (grid.band(None, 0) | grid.first_keys(size_of(prefix, "prefix"))).block_mask(grid)


def dilated(
    length: int, window: int, dilation: int, *, causal: bool = False, block_size: Any = 128
) -> BlockMask:
    """A window with gaps: every `dilation`-th key, `window` // 2 of them on either side of the row's own.

    Parameters
    ----------
    length, window, dilation : int
    causal : bool, default False
        No key after the row's own besides.
    block_size : int or (int, int), default 128
    """
    grid = Grid(length, block_size)
    step = positive(dilation, "dilation")
    reach = positive(window, "window") // 2 * step
    part = grid.band(reach, 0 if _keywords.flag(causal, "causal") else reach)
    return (part & every_nth(grid, step)).block_mask(grid)


def strided(length: int, stride: int, *, block_size: Any = 128) -> BlockMask:
    """Sparse Transformer's strided pattern (Child et al., 2019): causal, the last `stride` keys and every
    `stride`-th before them.
    """
    grid = Grid(length, block_size)
    stride = positive(stride, "stride")
    return (grid.band(stride - 1, 0) | (every_nth(grid, stride) & grid.band(None, 0))).block_mask(grid)


def every_nth(grid, step):
    def nth(b, h, q_idx, kv_idx):
        return (q_idx - kv_idx) % step == 0

    # Between its lowest and its highest difference a block has every one.
    lowest, highest = grid.first_k - grid.last_q, grid.last_k - grid.first_q
    some = numpy.floor_divide(highest, step) * step >= lowest
    return Part(nth, some, numpy.broadcast_to(step == 1, grid.shape) | ((lowest == highest) & some))


def positive(value, name):
    value = _keywords.integer(value, name)
    if not 1 <= value < 2**31:
        raise ValueError(f"{name}: {shown(value)}, expected 1 or more")
    return value

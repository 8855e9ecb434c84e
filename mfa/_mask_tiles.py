"""Masks of the blocks in which some pairs attend and some do not, each distinct one kept once."""

import numpy

MOST_PAIRS = 1 << 19  # that a mask_mod is asked of at once, where a block has no more


class MaskTiles:
    """The distinct masks seen so far, numbered; a mask that hides nothing is -1 and not kept."""

    def __init__(self, block_size):
        self.block_size = block_size
        self.numbers = {}

    def number(self, visible):
        """That of the mask `visible`, which may lack the last rows and keys of a block."""
        if visible.all():
            return -1
        if visible.shape != self.block_size:
            whole = numpy.ones(self.block_size, bool)
            whole[: visible.shape[0], : visible.shape[1]] = visible
            visible = whole
        return self.numbers.setdefault(visible.tobytes(), len(self.numbers))

    def masks(self):
        """(n, 1, rows, keys); None without any."""
        if not self.numbers:
            return None
        return numpy.frombuffer(b"".join(self.numbers), bool).reshape(-1, 1, *self.block_size)


def tiles_of_lists(mask_mod, num_blocks, indices, block_size, shape):
    """(masks, mask_indices) for the blocks that lists (B, H, R, n) name, of `shape` = (B, H, Nq, Nkv).

    `mask_mod` is an EvaluatedMask. Heads that share lists share masks, unless these depend on the head.
    """
    tiles = MaskTiles(block_size)
    counts = [
        size if count == 1 and depends else count
        for size, count, depends in zip(shape[:2], num_blocks.shape[:2], mask_mod.depends[:2], strict=True)
    ]
    numbers = numpy.full((*counts, *indices.shape[2:]), -1, numpy.int32)
    for b, h, row in numpy.ndindex(*numbers.shape[:3]):
        lists = (b if num_blocks.shape[0] > 1 else 0, h if num_blocks.shape[1] > 1 else 0, row)
        counted = indices[lists][: num_blocks[lists]]
        for place, visible in visible_blocks(mask_mod, (b, h), row, counted, block_size, shape):
            numbers[b, h, row, place] = tiles.number(visible)
    masks = tiles.masks()
    return masks, None if masks is None else numbers


def visible_blocks(mask_mod, head, row, columns, block_size, shape):
    """(place in `columns`, bool array) of blocks in one row of blocks, several evaluated at once."""
    rows, keys = block_size
    q_idx = numpy.arange(row * rows, min(row * rows + rows, shape[2]), dtype=numpy.int64)
    b, h = (numpy.array([index], numpy.int64) for index in head)
    at_once = max(1, MOST_PAIRS // (rows * keys))
    for first in range(0, len(columns), at_once):
        some = columns[first : first + at_once].astype(numpy.int64)
        kv_idx = (some[:, None] * keys + numpy.arange(keys)).reshape(-1)
        kv_idx = numpy.minimum(kv_idx, shape[3] - 1)  # in place of those that a ragged block lacks
        visible = numpy.broadcast_to(mask_mod(b, h, q_idx, kv_idx)[0, 0], (len(q_idx), len(kv_idx)))
        for place, column in enumerate(some):
            start = place * keys
            yield first + place, visible[:, start : start + min(keys, shape[3] - column * keys)]

"""Parts of the scores that are few enough to be in memory at once."""

from typing import NamedTuple

import numpy

from mfa._quantized_parts import part, values
from mfa._quantized_tensor import QuantizedTensor

FEWEST_ROWS = 32  # for fewer, heads come one by one


class Tile(NamedTuple):
    """Some rows of all heads, or of one."""

    b: slice
    h: slice
    rows: slice
    kv_heads: slice

    def of_queries(self, array):
        return array[self.b, self.h, self.rows]

    def of_keys(self, array):
        """Of an array, or of a QuantizedTensor."""
        if type(array) is QuantizedTensor:
            return part(array, self.b, self.kv_heads)
        return array[self.batches_of(array), self.kv_heads]

    def values_of_keys(self, array, keys):
        """Likewise of a slice of the keys, in float32."""
        if type(array) is QuantizedTensor:
            return values(array, self.b, self.kv_heads, keys)
        return array[self.batches_of(array), self.kv_heads, keys].astype(numpy.float32)

    def batches_of(self, array):
        return self.b if array.shape[0] > 1 else slice(None)

    def indices(self, keys):
        """b, h and q_idx of the tile, and kv_idx of the keys of a slice."""
        return [
            numpy.arange(part.start, part.stop, dtype=numpy.int64)
            for part in (self.b, self.h, self.rows, keys)
        ]


def tiles(shape, group, most, each, block_rows):
    """Tiles of at most so many numbers, each of whole rows of blocks or inside of one.

    `each` is how many numbers a row of all heads takes.
    """
    batch, heads, rows, keys = shape
    at_once = most // max(1, each)
    together = at_once >= min(rows, FEWEST_ROWS)
    if not together:
        at_once = most // max(1, keys)
    bands = list(row_bands(rows, max(1, at_once), block_rows))
    if together:
        whole = slice(0, batch), slice(0, heads)
        return [Tile(*whole, band, slice(0, heads // group)) for band in bands]
    return [
        Tile(slice(b, b + 1), slice(h, h + 1), band, slice(h // group, h // group + 1))
        for b in range(batch)
        for h in range(heads)
        for band in bands
    ]


def row_bands(rows, at_once, block_rows):
    if at_once >= block_rows:
        at_once -= at_once % block_rows
        block_rows = at_once
    for block in range(0, rows, block_rows):
        stop = min(block + block_rows, rows)
        for start in range(block, stop, at_once):
            yield slice(start, min(start + at_once, stop))


def runs(lists, keys):
    """Slices of the keys in which some block of `lists` counts."""
    if lists is None:
        return [slice(0, keys)]
    width = lists.block_size[1]
    columns = numpy.zeros(-(-keys // width) + 1, bool)
    for num_blocks, indices in (lists[1:3], lists[3:5]):
        if indices is not None:
            columns[indices[numpy.arange(indices.shape[-1]) < num_blocks[..., None]]] = True
    edges = numpy.flatnonzero(numpy.diff(columns, prepend=False))
    return [
        slice(int(a) * width, min(int(b) * width, keys)) for a, b in zip(edges[::2], edges[1::2], strict=True)
    ]

"""Lists of the blocks in each row of blocks, as FlexAttention has them: how many, and which."""

from typing import NamedTuple

import numpy

from mfa import _keywords
from mfa._memory import as_ndarray
from mfa._messages import brief, shown


class BlockLists(NamedTuple):
    """What the C library is given of a block mask: lists with a batch and a head axis, ascending, and masks.

    `mask_indices` says for each of `kv_indices` which of `masks` (n, 1, rows, keys) hides pairs there; -1 is
    none. `block_mask`, true where a block counts, stands in place of the lists.
    """

    block_size: tuple[int, int]
    kv_num_blocks: numpy.ndarray | None = None
    kv_indices: numpy.ndarray | None = None
    full_kv_num_blocks: numpy.ndarray | None = None
    full_kv_indices: numpy.ndarray | None = None
    masks: numpy.ndarray | None = None
    mask_indices: numpy.ndarray | None = None
    block_mask: numpy.ndarray | None = None

    def part(self, b, h, rows):
        """What is about slices of batches, heads and rows: whole rows of blocks, or some of one."""
        block_rows, block_keys = self.block_size
        first, last = rows.start // block_rows, (rows.stop - 1) // block_rows
        masks = self.masks
        if first == last:
            block_rows = rows.stop - rows.start
            offset = rows.start % self.block_size[0]
            masks = None if masks is None else masks[:, :, offset : offset + block_rows]

        def part_of(array):
            if array is None:
                return None
            batches, heads = (
                part if size > 1 else slice(None) for part, size in zip((b, h), array.shape, strict=False)
            )
            return array[batches, heads, first : last + 1]

        lists = {
            name: part_of(getattr(self, name)) for name in self._fields if name not in ("block_size", "masks")
        }
        return self._replace(block_size=(block_rows, block_keys), masks=masks, **lists)


def visible(lists, shape):
    """Bool array of `shape`: which pairs the BlockLists of a part do not hide."""
    block_rows, block_keys = lists.block_size
    result = numpy.zeros(shape, bool)
    for b, h, row in numpy.ndindex(*shape[:2], -(-shape[2] // block_rows)):
        band = result[b, h, row * block_rows : (row + 1) * block_rows]

        def of_row(array, b=b, h=h, row=row):
            return array[b if array.shape[0] > 1 else 0, h if array.shape[1] > 1 else 0, row]

        for num_blocks, indices, numbers in ((*lists[1:3], lists.mask_indices), (*lists[3:5], None)):
            if indices is None:
                continue
            for place, column in enumerate(of_row(indices)[: of_row(num_blocks)]):
                block = band[:, column * block_keys : (column + 1) * block_keys]
                number = -1 if numbers is None else of_row(numbers)[place]
                block[...] = True if number < 0 else lists.masks[number, 0, : len(block), : block.shape[1]]
    return result


def ordered(dense):
    """(num_blocks, indices) of a bool array of blocks; behind those that count stand the others."""
    order = numpy.argsort(~dense, axis=-1, kind="stable")
    return dense.sum(axis=-1, dtype=numpy.int32), order.astype(numpy.int32)


def dense(num_blocks, indices, columns):
    """The bool array of blocks that lists stand for."""
    result = numpy.zeros((*num_blocks.shape, columns), bool)
    counted = numpy.arange(indices.shape[-1]) < num_blocks[..., None]
    at = numpy.nonzero(counted)
    result[(*at[:-1], indices[at])] = True
    return result


def checked(num_blocks, indices, columns, prefix=""):
    """Both as int32 arrays, copies whose counted entries name each block of a row once."""
    names = f"{prefix}kv_num_blocks", f"{prefix}kv_indices"
    num_blocks, indices = arrays = [
        as_ndarray(array, name) for array, name in zip((num_blocks, indices), names, strict=True)
    ]
    for array, name in zip(arrays, names, strict=True):
        if array.dtype != numpy.int32:
            raise TypeError(f"{name}: dtype {brief(str(array.dtype))}, expected int32")
    if not 2 <= indices.ndim <= 4:
        raise ValueError(f"{names[1]}: {indices.ndim} dimensions, expected 2 to 4")
    if num_blocks.shape != indices.shape[:-1]:
        raise ValueError(
            f"{names[0]}: shape {num_blocks.shape}, expected {indices.shape[:-1]} as {names[1]} has"
        )
    width = indices.shape[-1]
    refuse(names[0], num_blocks, (num_blocks < 0) | (num_blocks > width), f"0 to {width}")
    counted = numpy.arange(width) < num_blocks[..., None]
    beyond = (indices < 0) | (indices >= columns)
    refuse(names[1], indices, counted & beyond, f"0 to {columns - 1}" if columns else "none")
    _, found, order = ascending((num_blocks, indices))
    again = numpy.zeros(indices.shape, bool)
    numpy.put_along_axis(again, order[..., 1:], counted[..., 1:] & (found[..., 1:] == found[..., :-1]), -1)
    refuse(names[1], indices, again, "each block once in a row")
    return frozen(num_blocks), frozen(indices)


def frozen(array):
    """A copy that cannot be written to: what is made of it once would not change with it."""
    distinct = array[tuple(slice(None if stride else 1) for stride in array.strides)].copy()
    return numpy.broadcast_to(distinct, array.shape)


def counted_or_last(num_blocks, indices):
    """`indices`, in which those that do not count are larger than any."""
    counted = numpy.arange(indices.shape[-1]) < num_blocks[..., None]
    return numpy.where(counted, indices, numpy.iinfo(numpy.int32).max)


def ascending(*lists):
    """(num_blocks, indices, order) of one or more (num_blocks, indices) put together and sorted."""
    indices = numpy.concatenate([counted_or_last(*pair) for pair in lists], axis=-1)
    order = numpy.argsort(indices, axis=-1, kind="stable")
    num_blocks = sum(pair[0] for pair in lists)
    return num_blocks.astype(numpy.int32, copy=False), numpy.take_along_axis(indices, order, axis=-1), order


def refuse(name, array, wrong, expected):
    """A ValueError for the first element of `array` that is `wrong`."""
    if wrong.any():
        at = tuple(map(int, numpy.argwhere(wrong)[0]))
        raise ValueError(f"{name}: {array[at]} at {at}, expected {expected}")


def with_four_axes(array, axes):
    """`array`, of `axes` at the most, with the leading ones that it lacks."""
    return array.reshape((1,) * (axes - array.ndim) + array.shape)


def block_size_of(value, name="BLOCK_SIZE"):
    """(rows, keys) of a number or a pair."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name}: {shown(value)}, expected a number or (rows, keys)")
    rows, keys = (_keywords.integer(size, name, "a number or (rows, keys)") for size in pair)
    if not (1 <= rows < 2**31 and 1 <= keys < 2**31):
        raise ValueError(f"{name}: {shown(value)}, expected 1 or more")
    return rows, keys


def fitted(block_size, lengths):
    """`block_size` no larger than what it cuts, so that masks of blocks are not either."""
    return tuple(min(size, max(length, 1)) for size, length in zip(block_size, lengths, strict=True))

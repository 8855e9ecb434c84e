"""Views of arrays of 4 axes: strided, reversed, broadcast, read-only, misaligned."""

import numpy as np

VIEWS = {
    "reversed": lambda x: x[::-1, ::-1, ::-1, ::-1],
    "every other": lambda x: np.repeat(np.repeat(x, 2, 1), 2, 3)[:, ::2, :, ::2],
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    "odd strides": lambda x: field(x, 2),
    "odd address": lambda x: shifted(x, 1),
    "odd address, reversed": lambda x: shifted(x, 1)[:, ::-1],
}


def field(x, padding):
    """`x` in records that are `padding` bytes longer than its items."""
    kind = np.dtype([("x", x.dtype), ("padding", f"V{padding - (x.itemsize == 2)}")])
    records = np.zeros(x.shape, kind)
    records["x"] = x
    return records["x"]


def shifted(x, bytes_off):
    memory = np.zeros(x.nbytes + 16, np.uint8)
    view = memory[bytes_off : bytes_off + x.nbytes].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view

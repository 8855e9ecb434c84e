"""Codes of keys and values in plain NumPy, as include/mfa.h has them: made, read in float64, and what is
expected of a call that takes them. Shares nothing with the library's quantiser but the class of codes."""

import numpy as np
from support import checks, tolerance
from support.random_codes import RANGES, packed

import mfa

PRECISIONS = tuple(RANGES)
# Rows and columns that share a scale.
GRANULARITIES = {
    "tensor": (0, 0),
    "token": (1, 0),
    "channel": (0, 1),
    "block": (32, 0),
    "groups": (1, 32),
    "both": (16, 64),
}


def spread(array, rows, columns, shape):
    """Scales, or zero points, each as often as it counts; axes are (B, N, H, D)."""
    for axis, shared in ((1, rows), (3, columns)):
        if shared > 1:
            array = array.repeat(shared, axis=axis)
    index = tuple(slice(size) for size in shape)
    return np.broadcast_to(array[index], shape)


def per_block(reduce, x, rows, columns):
    """`reduce` of the elements that share a scale, in the shape of scales; 0 of none."""
    for axis, shared in ((1, rows), (3, columns)):
        if x.shape[axis] == 0:
            shape = list(x.shape)
            shape[axis] = 0 if shared else 1
            x = np.zeros(shape)
        else:
            x = reduce.reduceat(x, np.arange(0, x.shape[axis], shared or x.shape[axis]), axis=axis)
    return x


def quantize(
    x, precision="int8", *, rows=1, columns=0, symmetric=None, mean=None, scale_dtype=np.float32,
    zero_dtype=np.int32,
):  # fmt: skip
    """A QuantizedTensor of (B, N, H, D) numbers; `mean` (B or 1, 1, H or 1, D) is subtracted first."""
    symmetric = not precision.startswith("u") if symmetric is None else symmetric
    lowest, highest = RANGES[precision]
    x = x.astype(np.float64) - (0 if mean is None else mean)
    if symmetric:
        lowest = -highest
        scales = per_block(np.maximum, np.abs(x), rows, columns) / highest
    else:
        most, least = (
            per_block(np.maximum, np.maximum(x, 0), rows, columns),
            per_block(np.minimum, np.minimum(x, 0), rows, columns),
        )
        scales = (most - least) / (highest - lowest)
    scales = np.maximum(scales, np.finfo(scale_dtype).tiny).astype(scale_dtype)
    codes, zeros = x / spread(scales.astype(np.float64), rows, columns, x.shape), None
    if not symmetric:
        zeros = np.clip(np.rint(lowest - least / scales.astype(np.float64)), lowest, highest).astype(
            zero_dtype
        )
        codes += spread(zeros, rows, columns, x.shape)
    codes = np.clip(np.rint(codes), lowest, highest).astype(np.int64)
    mean = None if mean is None else mean.astype(np.float32)
    return mfa.QuantizedTensor(
        packed(codes, precision),
        scales,
        zeros,
        mean,
        precision=precision,
        rows=rows,
        columns=columns,
        shape=x.shape,
    )


def relaid(tensor):
    """Of layout bhsd where it is bshd, and the reverse."""
    layout = "bshd" if tensor.layout == "bhsd" else "bhsd"
    arrays = (tensor.data, tensor.scales, tensor.zero_points, tensor.mean)
    batch, one, other, dim = tensor.shape
    return mfa.QuantizedTensor(
        *(None if x is None else x.swapaxes(1, 2) for x in arrays),
        precision=tensor.precision, rows=tensor.rows, columns=tensor.columns, layout=layout,
        shape=(batch, other, one, dim),
    )  # fmt: skip


def codes_of(tensor):
    """Whole numbers of the shape of what they stand for."""
    data = np.asarray(tensor.data)
    if tensor.precision in ("int8", "uint8"):
        return data.astype(np.int64)
    codes = np.zeros((*data.shape[:-1], 2 * data.shape[-1]), np.int64)
    codes[..., ::2], codes[..., 1::2] = data & 15, data >> 4
    codes = codes[..., : tensor.shape[-1]]
    return np.where(codes > 7, codes - 16, codes) if tensor.precision == "int4" else codes


def real(tensor):
    """What it stands for in float64, (B, N, H, D); other arrays as they are."""
    if not isinstance(tensor, mfa.QuantizedTensor):
        return tensor
    tensor = tensor if tensor.layout == "bshd" else relaid(tensor)
    shared = tensor.rows, tensor.columns, tensor.shape
    values = codes_of(tensor).astype(np.float64)
    if tensor.zero_points is not None:
        values -= spread(tensor.zero_points.astype(np.float64), *shared)
    with np.errstate(invalid="ignore"):
        values *= spread(tensor.scales.astype(np.float64), *shared)
    return values if tensor.mean is None else values + tensor.mean


def in_memory(tensor, arrays):
    """The same with other arrays, equal in what is read."""
    return mfa.QuantizedTensor(
        *arrays, precision=tensor.precision, rows=tensor.rows, columns=tensor.columns, shape=tensor.shape
    )


def paged(tensor, table, lengths, page_size):
    """The same in pages of which what no length reaches is as wrong as it can be."""
    page_count = table.size + 1

    def cut(array, empty):
        pages = np.full((page_count, page_size, *array.shape[2:]), empty, array.dtype)
        for b, length in enumerate(lengths):
            for row in range(length):
                pages[table[b, row // page_size], row % page_size] = array[b, row]
        return pages

    return mfa.QuantizedTensor(
        cut(tensor.data, 1), cut(tensor.scales, np.nan), cut(tensor.zero_points, 2**30),
        precision=tensor.precision, rows=tensor.rows, columns=tensor.columns,
        shape=(page_count, page_size, *tensor.shape[2:]),
    )  # fmt: skip


def expected(query, key, value, **options):
    """As checks.expected. What codes stand for may be rounded to query's type before it is multiplied."""
    rounding = 0.0 if query.dtype == checks.FLOAT32 else tolerance.unit_roundoff(query.dtype)
    return checks.expected(query, real(key), real(value), operand_rounding=rounding, **options)


def check(context, query, key, value, **options):
    """As checks.check."""
    result = mfa.attention(query, key, value, context=context, return_lse=True, **options)
    checks.assert_matches(result, expected(query, key, value, **options))
    return result

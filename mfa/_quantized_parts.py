"""Slices of QuantizedTensors whose layout is "bhsd", over the same memory."""

from mfa._quantized_tensor import QuantizedTensor


def part(tensor, batches, heads, rows=None, *, with_mean=True):
    """Slices of the first axes; that of rows, where there is one, begins and ends where scales do."""
    rows = slice(0, tensor.shape[2]) if rows is None else rows
    lines = slice(None)
    if tensor.rows > 0:
        lines = slice(rows.start // tensor.rows, -(-rows.stop // tensor.rows))
    data = _shared(tensor.data, batches, heads, rows)
    return QuantizedTensor(
        data,
        _shared(tensor.scales, batches, heads, lines),
        _shared(tensor.zero_points, batches, heads, lines),
        _shared(tensor.mean, batches, heads, slice(None)) if with_mean else None,
        precision=tensor.precision,
        rows=tensor.rows,
        columns=tensor.columns,
        layout=tensor.layout,
        shape=(*data.shape[:-1], tensor.shape[-1]),
        dtype=tensor.dtype,
    )


def values(tensor, batches, heads, rows):
    """What slices of the first axes stand for, in float32, of as many batches as codes or means are of."""
    each = max(tensor.rows, 1)
    first = rows.start // each * each
    stop = min(-(-rows.stop // each) * each, tensor.shape[2])
    wider = part(tensor, batches, heads, slice(first, stop), with_mean=False).dequantize()
    numbers = wider[:, :, rows.start - first : rows.stop - first]
    mean = _shared(tensor.mean, batches, heads, slice(None))
    return numbers if mean is None else numbers + mean


def _shared(array, batches, heads, lines):
    """A slice of what has one entry for all batches or heads, or each its own."""
    if array is None:
        return None
    batches = batches if array.shape[0] > 1 else slice(None)
    heads = heads if array.shape[1] > 1 else slice(None)
    return array[batches, heads, lines]

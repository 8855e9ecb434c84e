"""The arrays of a QuantizedTensor as tensors, which operators hand from one pass to the other."""

import torch

from mfa._quantize import codes_shape, known_symmetric, mean_shape, shared, zero_point_dtype
from mfa._quantized_config import DTYPES, is_smooth, quantizing
from mfa._quantized_tensor import CODES, QuantizedTensor

PARTS = ("codes", "scales", "zero_points", "mean")


def parts_of(stored, like):
    """The four, of what is not quantised or has no such part a tensor of nothing."""
    if type(stored) is not QuantizedTensor:
        return [like.new_empty(0) for _ in PARTS]
    # Scales and zero points may be the caller's: results of operators have memory of their own.
    return [
        torch.from_numpy(stored.data),
        torch.tensor(stored.scales, device="cpu"),
        like.new_empty(0) if stored.zero_points is None else torch.tensor(stored.zero_points, device="cpu"),
        like.new_empty(0, dtype=torch.float32) if stored.mean is None else torch.from_numpy(stored.mean),
    ]


def described(array, name, config):
    """What `parts_of` returns of the array quantised, without memory."""
    precision, given = quantizing(name, config)
    if precision in DTYPES:
        return [array.new_empty(0) for _ in PARTS]
    scale, zero_point = given["scale"], given["zero_point"]
    _, _, shape = shared(array.shape, "bhsd", given["granularity"], scale)
    scales = scale if isinstance(scale, torch.Tensor) else array.new_empty(shape, dtype=torch.float32)
    if known_symmetric(given["symmetric"], precision, scale is not None, zero_point):
        zero_points = array.new_empty(0)
    elif isinstance(zero_point, torch.Tensor):
        zero_points = torch.empty_like(zero_point)
    else:
        found = zero_point_dtype(precision).name if scale is None else "int32"
        zero_points = array.new_empty(scales.shape, dtype=getattr(torch, found))
    mean = mean_shape(array.shape, "bhsd") if is_smooth(name, config) else 0
    codes_dtype = getattr(torch, CODES[precision].name)
    return [
        array.new_empty(codes_shape(array.shape, precision), dtype=codes_dtype),
        array.new_empty(scales.shape, dtype=scales.dtype),
        zero_points,
        array.new_empty(mean, dtype=torch.float32),
    ]


def whole(parts, name, config, columns):
    """The QuantizedTensor of so many columns whose parts they are; None if nothing was quantised."""
    codes, scales, zero_points, mean = parts
    precision, given = quantizing(name, config)
    if precision in DTYPES:
        return None
    rows_shared, columns_shared, _ = shared(codes.shape, "bhsd", given["granularity"], given["scale"])
    return QuantizedTensor(
        codes,
        scales,
        zero_points if zero_points.numel() else None,
        mean if mean.numel() else None,
        precision=precision,
        rows=rows_shared,
        columns=columns_shared,
        layout="bhsd",
        shape=(*codes.shape[:-1], columns),
    )

"""Random codes, and random numbers that they are scaled by: any of those that a call may be given."""

import numpy as np

import mfa

RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}


def packed(codes, precision):
    """Whole numbers as QuantizedTensor takes them: two of four bits in a byte, the first in its low half."""
    if precision == "int8":
        return codes.astype(np.int8)
    codes = codes.astype(np.uint8)
    if precision == "uint8":
        return codes
    rows = np.zeros((*codes.shape[:-1], codes.shape[-1] + codes.shape[-1] % 2), np.uint8)
    rows[..., : codes.shape[-1]] = codes & 15
    return rows[..., ::2] | rows[..., 1::2] << 4


def random_codes(
    rng, shape, precision, *, rows=1, columns=0, zero_points=False, mean_of=None, scale_dtype=np.float32
):  # fmt: skip
    """A QuantizedTensor of `shape`, (B, N, H, D); `mean_of` so many sequences."""
    lowest, highest = RANGES[precision]
    batch, length, heads, dim = shape
    lines = -(-length // rows) if rows else 1
    scales_shape = (batch, lines, heads, -(-dim // columns) if columns else 1)
    scales = (rng.uniform(1, 3, scales_shape) / (highest - lowest)).astype(scale_dtype)
    zeros = None
    if zero_points or precision.startswith("u"):
        zeros = rng.integers(lowest, highest + 1, scales_shape).astype(np.int32)
    mean = None if mean_of is None else rng.standard_normal((mean_of, 1, heads, dim)).astype(np.float32)
    codes = packed(rng.integers(lowest, highest + 1, shape), precision)
    return mfa.QuantizedTensor(
        codes, scales, zeros, mean, precision=precision, rows=rows, columns=columns, shape=shape
    )

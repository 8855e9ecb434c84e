"""mfa.quantize: codes of what an array holds."""

import numbers
import re
from typing import Any, Literal

import numpy

from mfa import _keywords
from mfa._context import Context
from mfa._dtypes import wrong_dtype
from mfa._memory import as_ndarray
from mfa._messages import shown
from mfa._quantized_tensor import (
    CODES,
    FLOATS,
    HALVED,
    INT8,
    SCALES,
    UINT8,
    ZERO_POINTS,
    QuantizedTensor,
    known_array,
    known_precision,
    require_scales_shape,
    scales_shape,
)
from mfa._quantizing import fill

NAMED = {"tensor": (0, 0), "head": (0, 0), "token": (1, 0), "channel": (0, 1)}
NUMBERED = re.compile("(block|group)([1-9][0-9]{0,17})", re.ASCII)
RANGES = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
SCALE_DTYPES = {"float32": FLOATS[2], "float16": FLOATS[0]}


def quantize(
    x: Any,
    precision: Literal["int8", "uint8", "int4", "uint4"] = "int8",
    granularity: str | tuple[int, int] | None = None,
    *,
    symmetric: bool | None = None,
    smooth: bool = False,
    scale: Any = None,
    zero_point: Any = None,
    scale_dtype: Literal["float32", "float16"] = "float32",
    saturate: bool = False,
    layout: Literal["bshd", "bhsd"] = "bshd",
    context: Context | None = None,
) -> QuantizedTensor:
    """Codes of 8 or 4 bits for keys or values, with scales of their own or with given ones.

    An element x becomes ``rint(x / scale) + zero_point``, cut to the range of the codes. Symmetric codes have
    no zero points: scale is ``max(abs(x)) / 127``, or ``/ 7`` for 4 bits, and the lowest code is not used.
    Asymmetric ones share out all codes between ``min(x, 0)`` and ``max(x, 0)``. Where all is 0, scale is 1.

    Parameters
    ----------
    x : array (B, N, H, D) of float32, float16 or bfloat16
        3 axes are packed rows (T, H, D); with layout "bhsd", 3 or 2 are as in
        `mfa.scaled_dot_product_attention`.
    precision : {"int8", "uint8", "int4", "uint4"}, default "int8"
    granularity : str, (int, int) or None, default None
        What shares a scale, with the shape that scales have in layout "bshd":

        "tensor"
            Everything: (1, 1, 1, 1).
        "head"
            Each batch and head: (B, 1, H, 1).
        "token"
            Each row of a head: (B, N, H, 1). The one that rows can be appended to with scales of their own.
        "channel"
            Each column of a head: (B, 1, H, D).
        "block32", or any other number
            So many rows of a head: (B, ceil(N / 32), H, 1).
        "group32", or any other multiple of 32
            So many columns of a row: (B, N, H, ceil(D / 32)).
        (rows, columns)
            So many of both, where 0 is all: (B, ceil(N / rows), H, ceil(D / columns)).

        None is "token", or "tensor" where `scale` is a number.
    symmetric : bool or None, default None
        None is True for "int8" and "int4". The others are never symmetric.
    smooth : bool, default False
        Subtract from each column of a head its mean over the rows first, and keep that as `mean`: of keys, it
        takes outlying channels away at no loss (SageAttention, Zhang et al., 2024). It is of a
        batch of x, but calls take one for each sequence: pages, or batches in another order, cannot have it.
    scale, zero_point : number, array of scales' shape, or None, default None
        Scales and zero points to use, in place of finding them. An array of scales is float32 or float16, one
        of zero points int32, int8 or uint8. Without `zero_point` it is 0, or none for unsigned codes.
    scale_dtype : {"float32", "float16"}, default "float32"
        Of the scales to find, or made of a number.
    saturate : bool, default False
        NaN becomes the code of 0 and infinities an end of the range. Otherwise they are refused.
    layout : {"bshd", "bhsd"}, default "bshd"
        "bhsd" swaps axes 1 and 2 of x and of all arrays of the result.
    context : Context or None, default None
        Whose threads compute, on the CPU whatever its backend. None is a process-wide context.

    Returns
    -------
    QuantizedTensor
        Of NumPy arrays, also where x is a torch tensor. Given arrays of scales and zero points are kept.

    Raises
    ------
    TypeError, ValueError, BufferError
        An argument is wrong; the message names it. Also for an element that is not finite, unless `saturate`.
    MemoryError
        The result does not fit.

    Notes
    -----
    May be called from any number of threads; the GIL is released while it computes. Results have the same
    bits on every processor and for any number of threads.

    Examples
    --------
    >>> import mfa, numpy
    >>> key = mfa.quantize(numpy.linspace(-1, 1, 64, dtype=numpy.float32).reshape(1, 4, 2, 8))
    >>> key.precision, key.scales.shape, key.data[0, 0, 0, 0]
    ('int8', (1, 4, 2, 1), np.int8(-127))
    """
    precision = known_precision(precision)
    array = as_ndarray(x, "x")
    if array.dtype not in FLOATS.values():
        raise TypeError(wrong_dtype("x", x, array.dtype, "float32, float16 or bfloat16"))
    layout = "bhsd" if _keywords.heads_first(layout) else "bshd"
    fewest = 2 if layout == "bhsd" else 3
    if not fewest <= array.ndim <= 4:
        raise ValueError(f"x: {array.ndim} dimensions, expected {fewest} to 4")
    is_static = scale is not None
    rows, columns, shape = shared(array.shape, layout, granularity, scale)
    symmetric = known_symmetric(symmetric, precision, is_static, zero_point)
    smooth = _keywords.flag(smooth, "smooth")
    if smooth and is_static:
        raise ValueError("smooth: True, expected False beside scale")
    scale_dtype = _scale_dtype(scale_dtype)
    if is_static:
        scales = _scales(scale, shape, scale_dtype)
        require_scales_shape(scales, "scale", array.shape, layout, rows, columns)
        zero_points = None if symmetric else _zero_points(zero_point, scales.shape, precision)
    else:
        scales = numpy.empty(shape, scale_dtype)
        zero_points = None if symmetric else numpy.empty(shape, zero_point_dtype(precision))
    tensor = QuantizedTensor(
        numpy.empty(codes_shape(array.shape, precision), CODES[precision]),
        scales,
        zero_points,
        numpy.empty(mean_shape(array.shape, layout), numpy.float32) if smooth else None,
        precision=precision,
        rows=rows,
        columns=columns,
        layout=layout,
        shape=array.shape,
        dtype=array.dtype,
    )
    fill(array, tensor, is_static=is_static, saturate=_keywords.flag(saturate, "saturate"), context=context)
    return tensor


def shared(shape, layout, granularity, scale):
    """How many rows and columns share a scale, and the shape of scales."""
    if granularity is None:
        granularity = "tensor" if scale is not None and _is_number(scale) else "token"
    rows, columns = rows_and_columns(granularity)
    if _keywords.text_of(granularity) == "tensor":
        return rows, columns, (1,) * len(shape)
    return rows, columns, scales_shape(shape, layout, rows, columns)


def codes_shape(shape, precision):
    return (*shape[:-1], -(-shape[-1] // (2 if precision in HALVED else 1)))


def mean_shape(shape, layout):
    return scales_shape(shape, layout, 0, 1)


def zero_point_dtype(precision):
    """Of zero points that are found."""
    return UINT8 if precision.startswith("u") else INT8


def rows_and_columns(granularity):
    """How many of either share a scale; 0 is all."""
    text = _keywords.text_of(granularity)
    if text is not None:
        if text in NAMED:
            return NAMED[text]
        numbered = NUMBERED.fullmatch(text)
        if numbered is None:
            names = ", ".join(map(repr, NAMED))
            raise ValueError(
                f"granularity: {shown(granularity)}, expected {names}, 'block' or 'group' and a number, "
                "or (rows, columns)"
            )
        number = int(numbered[2])
        pair = (number, 0) if numbered[1] == "block" else (1, number)
    else:
        try:
            rows, columns = granularity
            pair = _keywords.integer(rows, "rows"), _keywords.integer(columns, "columns")
        except MemoryError:
            raise
        except Exception:
            raise TypeError(f"granularity: {shown(granularity)}, expected a str or (rows, columns)") from None
        if not all(0 <= number < 2**63 for number in pair):
            raise ValueError(f"granularity: {shown(granularity)}, expected (rows, columns) from 0 up")
    if pair[1] > 1 and pair[1] % 32:
        raise ValueError(
            f"granularity: {shown(granularity)}, expected a multiple of 32 columns, 1 or 0 (all)"
        )
    return pair


def _is_number(scale):
    return isinstance(scale, (numbers.Real, numpy.generic))


def known_symmetric(symmetric, precision, is_static, zero_point):
    is_signed = not precision.startswith("u")
    if zero_point is not None and not is_static:
        raise ValueError("zero_point: given, expected None without scale")
    if symmetric is None:
        symmetric = is_signed and zero_point is None
    elif _keywords.flag(symmetric, "symmetric") and not is_signed:
        raise ValueError(f"symmetric: True, expected None or False for {precision} codes")
    if symmetric and zero_point is not None:
        raise ValueError("zero_point: given, expected None beside symmetric=True")
    if is_static and not symmetric and zero_point is None:
        beside = f"{precision} codes" if symmetric is None or not is_signed else "symmetric=False"
        raise ValueError(f"zero_point: None, expected an integer or an array for {beside}")
    return bool(symmetric)


def _scale_dtype(value):
    text = _keywords.text_of(value)
    if text not in SCALE_DTYPES:
        error = TypeError if text is None else ValueError
        raise error(f"scale_dtype: {shown(value)}, expected 'float32' or 'float16'")
    return SCALE_DTYPES[text]


def _scales(scale, shape, dtype):
    if not _is_number(scale):
        return known_array(scale, "scale", SCALES)
    with numpy.errstate(over="ignore", under="ignore"):
        number = dtype.type(_keywords.real(scale, "scale"))
    if not 0 < number < numpy.inf:
        raise ValueError(f"scale: {shown(scale)}, expected a positive number that {dtype.name} can hold")
    return numpy.full(shape, number, dtype)


def _zero_points(zero_point, shape, precision):
    if not isinstance(zero_point, (numbers.Integral, numpy.generic)):
        unsigned = precision.startswith("u")
        dtypes = [dtype for dtype in ZERO_POINTS if dtype.itemsize == 4 or (dtype.kind == "u") == unsigned]
        zero_points = known_array(zero_point, "zero_point", dtypes)
        if zero_points.shape != shape:
            raise ValueError(f"zero_point: shape {shown(zero_points.shape)}, expected {shape} as scale has")
        return zero_points
    number = _keywords.integer(zero_point, "zero_point")
    lowest, highest = RANGES[precision]
    if not lowest <= number <= highest:
        raise ValueError(f"zero_point: {shown(zero_point)}, expected {lowest} to {highest}")
    return numpy.full(shape, number, numpy.int32)

"""mfa.QuantizedTensor: codes of 8 or 4 bits beside what they stand for."""

import itertools
from typing import Any, Literal, final

import ml_dtypes
import numpy

from mfa import _keywords
from mfa._dtypes import wrong_dtype
from mfa._memory import as_ndarray
from mfa._messages import brief, shown

FLOAT32 = numpy.dtype(numpy.float32)
FLOATS = {0: numpy.dtype(numpy.float16), 1: numpy.dtype(ml_dtypes.bfloat16), 2: FLOAT32}
SCALES = (FLOAT32, numpy.dtype(numpy.float16))
ZERO_POINTS = tuple(map(numpy.dtype, (numpy.int32, numpy.int8, numpy.uint8)))
INT8, UINT8 = ZERO_POINTS[1:]
CODES = {"int8": INT8, "uint8": UINT8, "int4": UINT8, "uint4": UINT8}  # what holds them
HALVED = ("int4", "uint4")


@final
class QuantizedTensor:
    """Keys or values as codes of 8 or 4 bits: ``scale * (code - zero_point) + mean``.

    Attention calls take it in place of a key or value array, and `quantize` makes it. Arrays are kept, not
    copied, and what is written into them counts: a cache is one of these over memory that is allocated once.

    Parameters
    ----------
    data : array (B, N, H, D) of int8 or uint8
        The codes: int8 for "int8", else uint8. For "int4" and "uint4" bytes (B, N, H, ceil(D / 2)), side by
        side along the last axis, in each of which the lower half is the first code. 3 axes are packed rows
        (T, H, D); with layout "bhsd", 3 or 2 axes are as `mfa.scaled_dot_product_attention` takes them.
    scales : array (B or 1, ceil(N / rows), H or 1, ceil(D / columns)) of float32 or float16
        Greater than 0. An axis that `data` lacks is lacking here too; axes are in the order of `layout`.
    zero_points : array, shape as scales, of int32, int8 or uint8, or None, default None
        Codes that stand for 0, or for the mean. None is 0, which "uint8" and "uint4" cannot have.
    mean : array (sequences or 1, 1, H or 1, D) of float32, or None, default None
        Added to what all rows of a sequence stand for; of keys only.
    precision : {"int8", "uint8", "int4", "uint4"}, default "int8"
    rows : int, default 1
        So many neighbours along N share a scale; 0 is all.
    columns : int, default 0
        Likewise along D: 1 or a multiple of 32; 0 is all.
    layout : {"bshd", "bhsd"}, default "bshd"
        The order of axes, of all arrays alike; "bhsd" is (B, H, N, D). That of the call that takes it.
    shape : tuple of int or None, default None
        Of what the codes stand for. None is that of `data`, where a byte has two codes with two columns each.
    dtype : dtype, default "float32"
        Of what was quantised: float32, float16 or bfloat16. It changes no result.

    Raises
    ------
    TypeError, ValueError, BufferError
        An argument is wrong; the message names it.

    Notes
    -----
    Immutable but for the contents of its arrays, which are NumPy's whatever they were given as, over the same
    memory. Values of scales and zero points are checked by the calls that read them.

    Examples
    --------
    >>> import mfa, numpy
    >>> codes, scales = numpy.ones((1, 4, 2, 8), numpy.int8), numpy.full((1, 4, 2, 1), 0.5, numpy.float32)
    >>> key = mfa.QuantizedTensor(codes, scales)
    >>> key.granularity, key.nbytes, key.dequantize()[0, 0, 0, 0]
    ('token', 96, np.float32(0.5))
    """

    __slots__ = (
        "columns",
        "data",
        "dtype",
        "layout",
        "mean",
        "precision",
        "rows",
        "scales",
        "shape",
        "zero_points",
    )

    data: numpy.ndarray
    scales: numpy.ndarray
    zero_points: numpy.ndarray | None
    mean: numpy.ndarray | None
    precision: Literal["int8", "uint8", "int4", "uint4"]
    rows: int
    columns: int
    layout: Literal["bshd", "bhsd"]
    shape: tuple[int, ...]
    dtype: numpy.dtype

    def __init__(
        self,
        data: Any,
        scales: Any,
        zero_points: Any = None,
        mean: Any = None,
        *,
        precision: Literal["int8", "uint8", "int4", "uint4"] = "int8",
        rows: int = 1,
        columns: int = 0,
        layout: Literal["bshd", "bhsd"] = "bshd",
        shape: tuple[int, ...] | None = None,
        dtype: Any = "float32",
    ) -> None:
        precision = known_precision(precision)
        layout = "bhsd" if _keywords.heads_first(layout) else "bshd"
        data = known_array(data, "data", (CODES[precision],))
        fewest = 2 if layout == "bhsd" else 3
        if not fewest <= data.ndim <= 4:
            raise ValueError(f"data: {data.ndim} dimensions, expected {fewest} to 4")
        if precision in HALVED and data.size > 0 and data.shape[-1] > 1 and data.strides[-1] != 1:
            raise ValueError(
                f"data: a stride of {data.strides[-1]} bytes along the last axis, expected 1 for {precision}"
            )
        if mean is not None:
            mean = known_array(mean, "mean", (FLOAT32,))
        if zero_points is not None:
            zero_points = known_array(zero_points, "zero_points", ZERO_POINTS)
        self._set(
            data=data,
            scales=known_array(scales, "scales", SCALES),
            zero_points=zero_points,
            mean=mean,
            precision=precision,
            rows=_keywords.count(rows, "rows"),
            columns=known_columns(columns),
            layout=layout,
            shape=shape_of_values(shape, data.shape, precision),
            dtype=FLOATS[_keywords.out_dtype("float32" if dtype is None else dtype, "dtype")],
        )
        self._check_scales()
        self._check_mean()

    def _set(self, **fields):
        for name, field in fields.items():
            object.__setattr__(self, name, field)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name}: a QuantizedTensor does not change")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name}: a QuantizedTensor does not change")

    def __reduce__(self):
        return _from_fields, ({name: getattr(self, name) for name in self.__slots__},)

    def __repr__(self) -> str:
        return (
            f"<QuantizedTensor {self.shape} of {self.precision}, granularity {self.granularity!r}, "
            f"layout {self.layout!r}>"
        )

    def _check_scales(self):
        scales, zero_points = self.scales, self.zero_points
        require_scales_shape(scales, "scales", self.shape, self.layout, self.rows, self.columns)
        if zero_points is None and self.precision.startswith("u"):
            raise ValueError(f"zero_points: None, expected an array for {self.precision} codes")
        if zero_points is not None and zero_points.shape != scales.shape:
            raise ValueError(
                f"zero_points: shape {shown(zero_points.shape)}, expected {scales.shape} as scales has"
            )

    def _check_mean(self):
        """Its first axis is that of sequences, which only a call knows."""
        if self.mean is None:
            return
        _, heads, _, dim = ordered_shape(self.shape, self.layout)
        shape = self.mean.shape
        found = ordered_shape(shape, self.layout) if len(shape) in (4, len(self.shape)) else ()
        if found[2:] != (1, dim) or found[1] not in (1, heads):
            expected = ("sequences", heads, 1, dim) if self.layout == "bhsd" else ("sequences", 1, heads, dim)
            raise ValueError(
                f"mean: shape {shown(shape)}, expected ({', '.join(map(str, expected))}), "
                "or 1 in the places of sequences and heads"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        arrays = (self.data, self.scales, self.zero_points, self.mean)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def granularity(self) -> str | tuple[int, int]:
        """What shares a scale, as `quantize` takes it."""
        if self.rows == 0 and self.columns == 0:
            return "tensor" if self.scales.size == 1 else "head"
        if self.columns == 0:
            return "token" if self.rows == 1 else f"block{self.rows}"
        if self.rows == 0 and self.columns == 1:
            return "channel"
        return f"group{self.columns}" if self.rows == 1 else (self.rows, self.columns)

    def dequantize(self, dtype: Any = "float32") -> numpy.ndarray:
        """What the codes stand for.

        Parameters
        ----------
        dtype : dtype, default "float32"
            float32, float16 or bfloat16, as a name or a dtype of NumPy or torch. Rounded to from float32.

        Returns
        -------
        ndarray of `shape`

        Raises
        ------
        TypeError
            `dtype` is none of these.
        ValueError
            `mean` is of several sequences, and `data` of packed rows or of pages.
        """
        dtype = FLOATS[_keywords.out_dtype("float32" if dtype is None else dtype, "dtype")]
        codes = ordered(self._codes(), self.layout)
        values = codes.astype(FLOAT32)
        if self.zero_points is not None:
            values -= self._spread(self.zero_points)
        values *= self._spread(self.scales)
        if self.mean is not None:
            mean = ordered(self.mean, self.layout)
            if mean.shape[0] not in (1, values.shape[0]):
                expected = "1" if values.shape[0] == 1 else f"1 or {values.shape[0]}"
                raise ValueError(
                    f"mean: of {mean.shape[0]} sequences, expected {expected} as data has; "
                    "which rows are whose only a call knows"
                )
            values += mean
        if self.layout == "bshd":
            values = values.swapaxes(1, 2)
        return numpy.ascontiguousarray(values.reshape(self.shape), dtype)

    def error(self, x: Any) -> float:
        """The root mean square of what `x` lost.

        Parameters
        ----------
        x : array, shape as `shape`, floating
            What was quantised.

        Returns
        -------
        float
            0.0 of no elements.

        Raises
        ------
        TypeError, ValueError, BufferError
            `x` is no such array.
        """
        array = as_ndarray(x, "x")
        if array.dtype.kind != "f" and array.dtype != FLOATS[1]:
            raise TypeError(f"x: dtype {brief(str(array.dtype))}, expected a floating one")
        if array.shape != self.shape:
            raise ValueError(f"x: shape {shown(array.shape)}, expected {self.shape}")
        if array.size == 0:
            return 0.0
        lost = self.dequantize().astype(numpy.float64)
        lost -= array
        return float(numpy.sqrt(numpy.mean(numpy.square(lost))))

    def _codes(self):
        """One to an element; of 4 bits, unpacked."""
        if self.precision not in HALVED:
            return self.data
        codes = numpy.stack((self.data & 15, self.data >> 4), axis=-1)
        codes = codes.reshape(*self.data.shape[:-1], 2 * self.data.shape[-1])[..., : self.shape[-1]]
        return codes if self.precision == "uint4" else (codes ^ 8).view(INT8) - INT8.type(8)

    def _spread(self, array):
        """Scales or zero points, each as often as it counts, in the order (batch, heads, rows, dim)."""
        array = ordered(array, self.layout).astype(FLOAT32)
        _, _, rows, dim = ordered_shape(self.shape, self.layout)
        if self.rows > 1:
            array = array.repeat(min(self.rows, max(rows, 1)), axis=2)[:, :, :rows]
        if self.columns > 1:
            array = array.repeat(min(self.columns, max(dim, 1)), axis=3)[..., :dim]
        return array


def shape_of(array, name):
    """That of a QuantizedTensor or of any other array."""
    return array.shape if type(array) is QuantizedTensor else as_ndarray(array, name).shape


def _from_fields(fields):
    return QuantizedTensor(**fields)


def known_precision(value, name="precision"):
    text = _keywords.text_of(value)
    if text not in CODES:
        error = TypeError if text is None else ValueError
        raise error(f"{name}: {shown(value)}, expected {', '.join(map(repr, CODES))}")
    return text


def known_columns(value):
    columns = _keywords.count(value, "columns")
    if columns > 1 and columns % 32:
        raise ValueError(f"columns: {columns}, expected 0 (all), 1 or a multiple of 32")
    return columns


def known_array(array, name, dtypes):
    numbers = as_ndarray(array, name)
    if numbers.dtype not in dtypes:
        expected = " or ".join(dtype.name for dtype in dtypes)
        raise TypeError(wrong_dtype(name, array, numbers.dtype, expected))
    return numbers


def shape_of_values(shape, stored, precision):
    """What `stored` codes stand for has this shape, which is that of the codes if it is not given."""
    count = 2 if precision in HALVED else 1
    if shape is None:
        return (*stored[:-1], stored[-1] * count)
    try:
        sizes = tuple(_keywords.integer(size, "shape") for size in itertools.islice(shape, 5))
    except MemoryError:
        raise
    except Exception:
        raise TypeError(f"shape: {shown(shape)}, expected None or integers") from None
    if sizes[:-1] != stored[:-1] or len(sizes) != len(stored) or -(-sizes[-1] // count) != stored[-1]:
        last = f"{stored[-1]}" if count == 1 else f"{2 * stored[-1] - 1} or {2 * stored[-1]}"
        expected = ", ".join([*map(str, stored[:-1]), last])
        raise ValueError(f"shape: {shown(sizes)}, expected ({expected}) as data has")
    return sizes


def parts(size, each):
    """How many scales an axis has."""
    return 1 if each == 0 else -(-size // each)


def scales_shape(shape, layout, rows, columns):
    """Of scales for each batch and head of a tensor of that shape."""
    batch, heads, count, dim = ordered_shape(shape, layout)
    found = batch, heads, parts(count, rows), parts(dim, columns)
    return ordered_shape(found, layout)[4 - len(shape) :]


def require_scales_shape(scales, name, shape, layout, rows, columns):
    expected = scales_shape(shape, layout, rows, columns)
    found = ordered_shape(scales.shape, layout) if scales.ndim == len(shape) else ()
    wanted = ordered_shape(expected, layout)
    if found[2:] != wanted[2:] or any(a not in (1, b) for a, b in zip(found, wanted, strict=False)):
        raise ValueError(
            f"{name}: shape {shown(scales.shape)}, expected {expected} with rows {rows} and columns "
            f"{columns}, or 1 in the places of batches and heads"
        )


def ordered(array, layout):
    """A view with all four axes, in the order (batch, heads, rows, dim)."""
    array = array[(None,) * (4 - array.ndim)]
    return array if layout == "bhsd" else array.swapaxes(1, 2)


def ordered_shape(shape, layout):
    """Swapping back, too, what has four axes."""
    shape = (1,) * (4 - len(shape)) + tuple(shape)
    return shape if layout == "bhsd" else (shape[0], shape[2], shape[1], shape[3])

"""Contexts, buffers and attention of NumPy arrays."""

from contextlib import nullcontext
from typing import Any

import numpy

import mfa
from mfa._attention_keywords import DEFAULTS
from mfa._forward import forward
from mfa.errors import MFAError as MFAError

# What each precision goes by, in the order of the original's numbers.
PRECISIONS = (
    ("fp16", "half", "float16"),
    ("bf16", "bfloat16"),
    ("fp32", "float", "float32"),
    ("int8",),
    ("int4",),
)
NAMES = {"query": "q", "key": "k", "value": "v", "mask": "attn_mask"}
# What holds codes of one precision, and what `mfa.QuantizedTensor` calls them.
CODES = {("int8", "int8"): "int8", ("int8", "uint8"): "uint8", ("int4", "uint8"): "int4"}


class MFAContext:
    """Where attention runs: the GPU if there is one, else the CPU. A context manager that closes itself."""

    def __init__(self) -> None:
        self._context = mfa.Context()

    @property
    def handle(self) -> mfa.Context:
        """The `mfa.Context`."""
        return self._context

    def __enter__(self) -> "MFAContext":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        return not self._context.closed

    def close(self) -> None:
        self._context.close()


class MFABuffer:
    """Memory that a context's device can use: an array's own, or new.

    Parameters
    ----------
    context : MFAContext
    data : array or None, default None
        C-contiguous; its memory is used where it lies.
    size : int or None, default None
        Bytes of new memory, where there is no `data`.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, MFAError
        As `mfa.Buffer`; ValueError also for neither, and for `data` that is not contiguous.
    """

    def __init__(self, context: MFAContext, data: Any = None, size: int | None = None) -> None:
        if data is None and size is None:
            raise ValueError("data, size: None, expected one of them")
        if data is not None and not data.flags.c_contiguous:
            raise ValueError("data: has gaps or another order, expected a C-contiguous array")
        self._buffer = mfa.Buffer(context.handle, size if data is None else data)

    @property
    def handle(self) -> mfa.Buffer:
        """The `mfa.Buffer`."""
        return self._buffer

    def __bool__(self) -> bool:
        return not self._buffer.closed

    def contents_ptr(self) -> int:
        """The address of the first byte."""
        return numpy.frombuffer(self._buffer, numpy.uint8).ctypes.data

    def close(self) -> None:
        self._buffer.close()


def flash_attention_forward(
    context: MFAContext,
    q: numpy.ndarray,
    k: numpy.ndarray,
    v: numpy.ndarray,
    *,
    attn_mask: numpy.ndarray | None = None,
    causal: bool = False,
    softmax_scale: float | None = None,
    input_precision: int | str = "fp16",
    intermediate_precision: int | str = "fp16",
    output_precision: int | str = "fp16",
) -> numpy.ndarray:
    """Attention of NumPy arrays.

    Parameters
    ----------
    context : MFAContext
    q : ndarray (N, D) or (B, N, H, D) of float32, float16 or bfloat16
    k, v : ndarray (S, D) or (B, S, H, D), dtype as q
        Heads may be fewer than those of q by a whole factor.
    attn_mask : ndarray or None, default None
        bool or small integers (True = attend), or floating (added to the scores); broadcast to (N, S), or to
        (B, N, H, S).
    causal : bool, default False
        Row i sees keys up to i.
    softmax_scale : float or None, default None
        None is ``1 / sqrt(D)``.
    input_precision, intermediate_precision, output_precision
        Have to be known, and change nothing: arrays have a dtype, results that of q, and sums are float32.

    Returns
    -------
    ndarray, shape and dtype as q

    Raises
    ------
    TypeError, ValueError, MemoryError, MFAError
        As `mfa.attention`.
    """
    _require_arrays(q, k, v)
    for name, precision in (
        ("input_precision", input_precision),
        ("intermediate_precision", intermediate_precision),
        ("output_precision", output_precision),
    ):
        _known_precision(precision, name)
    mask = None if attn_mask is None else _mask(attn_mask, q, k)
    out = _attention(context, *map(_with_heads, (q, k, v)), causal, softmax_scale, mask)
    return out.reshape(*q.shape[:-1], v.shape[-1])


def attention(
    q: numpy.ndarray, k: numpy.ndarray, v: numpy.ndarray, context: MFAContext | None = None, **kwargs: Any
) -> numpy.ndarray:
    """`flash_attention_forward`, in a context of its own unless there is one.

    Parameters
    ----------
    q, k, v, context, **kwargs
        As there.

    Returns
    -------
    ndarray, shape and dtype as q

    Raises
    ------
    TypeError, ValueError, MemoryError, MFAError
        As there.
    """
    with MFAContext() if context is None else nullcontext(context) as used:
        return flash_attention_forward(used, q, k, v, **kwargs)


def quantized_attention(
    q: numpy.ndarray,
    k: numpy.ndarray,
    v: numpy.ndarray,
    context: MFAContext | None = None,
    *,
    causal: bool = False,
    softmax_scale: float | None = None,
    query_precision: int | str = "bf16",
    kv_precision: int | str = "int8",
    output_precision: int | str = "bf16",
    q_scale: float = 1.0,
    q_zero_point: int = 0,
    k_scale: float = 1.0,
    k_zero_point: int = 0,
    v_scale: float = 1.0,
    v_zero_point: int = 0,
) -> numpy.ndarray:
    """Attention to codes: an element of k stands for ``k_scale * (k - k_zero_point)``, one of v likewise.

    Parameters
    ----------
    q : ndarray (N, D) or (B, N, H, D) of float32, float16 or bfloat16
    k, v : ndarray (S, D) or (B, S, H, D) of codes
        int8 or uint8; of "int4" bytes (S, ceil(D / 2)) of uint8, each with the first code in its lower half.
    context : MFAContext or None, default None
        None makes one for the call.
    causal, softmax_scale
        As for `flash_attention_forward`.
    query_precision, output_precision
        Have to be known floating ones, and change nothing.
    kv_precision : {"int8", "int4"}, default "int8"
    q_scale, q_zero_point
        Queries are no codes: 1 and 0.
    k_scale, k_zero_point, v_scale, v_zero_point : numbers
        What codes stand for.

    Returns
    -------
    ndarray, shape and dtype as q

    Raises
    ------
    TypeError, ValueError, MemoryError, MFAError
        As `mfa.attention` and `mfa.QuantizedTensor`.
    """
    for name, precision in (("query_precision", query_precision), ("output_precision", output_precision)):
        if _known_precision(precision, name) in ("int8", "int4"):
            raise ValueError(f"{name}: {precision!r}, expected 'fp16', 'bf16' or 'fp32'")
    precision = _known_precision(kv_precision, "kv_precision")
    if precision not in ("int8", "int4"):
        raise ValueError(f"kv_precision: {kv_precision!r}, expected 'int8' or 'int4'")
    if (q_scale, q_zero_point) != (1, 0):
        raise ValueError(f"q_scale, q_zero_point: {q_scale}, {q_zero_point}, expected 1 and 0")
    _require_arrays(q, k, v)
    key = _codes(k, "k", precision, k_scale, k_zero_point, q.shape[-1])
    value = _codes(v, "v", precision, v_scale, v_zero_point, q.shape[-1])
    with MFAContext() if context is None else nullcontext(context) as used:
        out = _attention(used, _with_heads(q), key, value, causal, softmax_scale, None)
    return out.reshape(q.shape)


def _attention(context, query, key, value, causal, softmax_scale, mask):
    said = {"causal": "top-left" if causal else None, "softmax_scale": softmax_scale, "mask": mask}
    return forward(query, key, value, DEFAULTS | said, names=NAMES, context=context.handle)


def _known_precision(precision, name):
    """The first name that the precision goes by."""
    for number, names in enumerate(PRECISIONS):
        if precision == number or (isinstance(precision, str) and precision.lower() in names):
            return names[0]
    names = ", ".join(repr(names[0]) for names in PRECISIONS)
    raise ValueError(f"{name}: {precision!r}, expected {names}, or a number from 0 to {len(PRECISIONS) - 1}")


def _require_arrays(q, k, v):
    for array, name in ((q, "q"), (k, "k"), (v, "v")):
        if not isinstance(array, numpy.ndarray):
            raise TypeError(f"{name}: {type(array).__name__}, expected a NumPy array")
        if array.ndim not in (2, 4) or array.ndim != q.ndim:
            expected = "2 or 4" if array is q else f"{q.ndim} as q has"
            raise ValueError(f"{name}: {array.ndim} dimensions, expected {expected}")


def _with_heads(array):
    return array if array.ndim == 4 else array[None, :, None]


def _mask(mask, q, k):
    """What mfa takes for a mask of (N, S) or (B, N, H, S)."""
    mask = numpy.asarray(mask)
    if mask.dtype.kind in "iu" and mask.dtype.itemsize <= 2:
        mask = mask.astype(bool)
    elif mask.dtype == numpy.float64:
        mask = mask.astype(numpy.float32)
    scores = (*q.shape[:-1], k.shape[0 if k.ndim == 2 else 1])
    try:
        mask = numpy.broadcast_to(mask, scores)
    except ValueError:
        raise ValueError(f"attn_mask: shape {mask.shape}, expected one that broadcasts to {scores}") from None
    return mask if mask.ndim == 2 else mask.swapaxes(1, 2)


def _codes(array, name, precision, scale, zero_point, columns):
    """A QuantizedTensor with one scale and zero point for all."""
    kind = CODES.get((precision, array.dtype.name))
    if kind is None:
        expected = "int8 or uint8" if precision == "int8" else "uint8"
        raise TypeError(f"{name}: dtype {array.dtype}, expected {expected} for codes of {precision}")
    array = _with_heads(array)
    ones = (1, 1, 1, 1)
    has_zero_point = zero_point != 0 or kind == "uint8"
    return mfa.QuantizedTensor(
        array,
        numpy.full(ones, scale, numpy.float32),
        numpy.full(ones, zero_point, numpy.int32) if has_zero_point else None,
        precision=kind,
        rows=0,
        columns=0,
        shape=(*array.shape[:-1], columns),
    )

"""FlashAttention-3's function that joins results over disjoint sets of keys, for any array."""

from typing import Any

import numpy

from mfa import _keywords
from mfa._dtypes import wrong_dtype
from mfa._memory import as_ndarray
from mfa._messages import shown
from mfa._tensors import new_array, note_write

FLOAT32 = numpy.dtype(numpy.float32)
DTYPES = {code: numpy.dtype(name) for name, code in _keywords.PRECISIONS.items()}


def flash_attn_combine(out_partial: Any, lse_partial: Any, out: Any = None, out_dtype: Any = None) -> Any:
    """FlashAttention-3's ``flash_attn_combine``: attention to all keys, from that to each part of them.

    Parameters
    ----------
    out_partial : array (splits, B, N, H, D) of float32
    lse_partial : array (splits, B, N, H) of float32
        Logsumexps, heads last; -inf where a row saw no key, whose row of out_partial is then not read.
    out : array (B, N, H, D), or None, default None
        Written and returned.
    out_dtype : dtype or None, default None
        float32, float16 or bfloat16, as a name or a dtype of NumPy or torch. None is that of `out`, or
        float32.

    Returns
    -------
    out : array (B, N, H, D)
        A torch tensor if out_partial is one, else an ndarray; `out` itself if given.
    lse : array (B, N, H) of float32

    Raises
    ------
    TypeError, ValueError, BufferError
        An argument is wrong; the message names it. Nothing is written then.
    """
    partial = _float32(out_partial, "out_partial")
    logsumexps = _float32(lse_partial, "lse_partial")
    if partial.ndim != 5:
        raise ValueError(f"out_partial: {partial.ndim} dimensions, expected 5")
    if partial.shape[0] == 0:
        raise ValueError("out_partial: 0 splits, expected 1 or more")
    if logsumexps.shape != partial.shape[:-1]:
        raise ValueError(f"lse_partial: shape {shown(logsumexps.shape)}, expected {partial.shape[:-1]}")
    precision = _keywords.out_dtype(out_dtype)
    shape = partial.shape[1:]
    if out is None:
        result = new_array(out_partial, shape, DTYPES.get(precision, FLOAT32))
        written = as_ndarray(result, "out")
    else:
        result, written = out, as_ndarray(out, "out", writable=True)
        if written.dtype not in DTYPES.values():
            raise TypeError(wrong_dtype("out", out, written.dtype, "float32, float16 or bfloat16"))
        if written.dtype != DTYPES.get(precision, written.dtype):
            raise ValueError(f"out_dtype: {DTYPES[precision]}, expected {written.dtype} as out has")
        if written.shape != shape:
            raise ValueError(f"out: shape {shown(written.shape)}, expected {shape}")
        _require_distinct_elements(written)
    logsumexp = new_array(out_partial, shape[:-1], FLOAT32)
    written[...] = _joined(partial, logsumexps, as_ndarray(logsumexp, "lse"))
    if out is not None:
        note_write(out)
    return result, logsumexp


def _joined(partial, logsumexps, logsumexp):
    """The rows, whose logsumexps go to `logsumexp`."""
    highest = logsumexps.max(axis=0)
    with numpy.errstate(invalid="ignore", divide="ignore"):
        weights = numpy.exp(logsumexps - numpy.where(highest == -numpy.inf, FLOAT32.type(0), highest))
        total = weights.sum(axis=0)
        logsumexp[...] = highest + numpy.log(total)
    weights /= numpy.where(total == 0, FLOAT32.type(1), total)
    rows = numpy.zeros(partial.shape[1:], FLOAT32)
    for part, weight in zip(partial, weights, strict=True):
        weight = weight[..., None]
        numpy.add(rows, weight * part, out=rows, where=weight != 0)
    return rows


def _require_distinct_elements(out):
    """Refuse an `out` of which elements share memory, as mfa.attention does."""
    reach = out.itemsize - 1
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(out.strides, out.shape, strict=True)
    ):
        if size > 1:
            if stride <= reach:
                raise ValueError(f"out: strides {shown(out.strides)}, expected elements that share no memory")
            reach += stride * (size - 1)


def _float32(array, name):
    numbers = as_ndarray(array, name)
    if numbers.dtype != FLOAT32:
        raise TypeError(wrong_dtype(name, array, numbers.dtype, "float32"))
    return numbers

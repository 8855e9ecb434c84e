"""PyTorch's scaled_dot_product_attention, for any array."""

import itertools
import sys

import numpy

from mfa import _keywords
from mfa._call import AttentionCall
from mfa._context import default_context
from mfa._numpy import as_ndarray, is_tensor


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """``torch.nn.functional.scaled_dot_product_attention`` on NumPy, torch and other arrays.

    Parameters
    ----------
    query : array (..., H, N, D) of float32, float16 or bfloat16
        From two axes up. Axes before H broadcast between query, key and value, without a copy; beyond one of
        them, each index is a call of its own.
    key : array (..., H, S, D), dtype as query
    value : array (..., H, S, Dv), dtype as query
    attn_mask : array or None, default None
        bool (True = attend) or floating (added to the scores); broadcast to (..., H, N, S).
    dropout_p : float, default 0.0
        Anything but 0.0 raises NotImplementedError.
    is_causal : bool, default False
        Row i sees keys up to i: aligned top-left, as in PyTorch. Not together with `attn_mask`.
    scale : float or None, default None
        None is ``1 / sqrt(D)``.
    enable_gqa : bool, default False
        Key and value may have fewer heads than query, by a whole factor.

    Returns
    -------
    array (..., H, N, Dv)
        dtype as query; a torch tensor if query is one, else an ndarray. A row that sees no key is 0.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.
    NotImplementedError
        `dropout_p` is not 0.

    Notes
    -----
    May be called from any number of threads. Gradients are not recorded: a tensor that requires grad is
    refused unless grad mode is off.
    """
    dropout_p = _keywords.real(dropout_p, "dropout_p")
    _keywords.require_default("scaled_dot_product_attention", "dropout_p", dropout_p, 0.0)
    is_causal = _keywords.flag(is_causal, "is_causal")
    enable_gqa = _keywords.flag(enable_gqa, "enable_gqa")
    scale = _keywords.softmax_scale(scale, "scale")
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask: given together with is_causal=True, expected None")
    if _most_axes(query, key, value) > 4:
        return _each_batch(query, key, value, attn_mask, is_causal, scale, enable_gqa)
    return _batch(query, key, value, attn_mask, is_causal, scale, enable_gqa, None)


def _batch(query, key, value, attn_mask, is_causal, scale, enable_gqa, out):
    top_left = _keywords.ALIGNMENTS["top-left"]
    call = AttentionCall(
        query,
        key,
        value,
        True,
        True,
        enable_gqa,
        is_causal,
        top_left,
        -1,
        -1,
        scale,
        0.0,
        "attn_mask",
        attn_mask,
        None,
        None,
        None,
        _keywords.DEFAULT_PRECISION,
        out,
        _keywords.DEFAULT_PRECISION,
        False,
    )
    call.run(default_context())
    return call.out


def _most_axes(*arrays):
    return max(getattr(array, "ndim", 0) for array in arrays)


def _each_batch(query, key, value, attn_mask, is_causal, scale, enable_gqa):
    """One call for each index of the axes before the last four, so that none needs a copy to be merged."""
    query, key, value = (
        _sliceable(array, name) for array, name in ((query, "query"), (key, "key"), (value, "value"))
    )
    for array, name in ((query, "query"), (key, "key"), (value, "value")):
        if array.ndim < 2:
            raise ValueError(f"{name}: {array.ndim} dimensions, expected at least 2")
    try:
        leading = numpy.broadcast_shapes(*(tuple(array.shape[:-3]) for array in (query, key, value)))
    except ValueError:
        raise ValueError(
            f"key, value: leading axes {tuple(key.shape[:-3])} and {tuple(value.shape[:-3])}, "
            f"expected some that broadcast with query's {tuple(query.shape[:-3])}"
        ) from None
    query, key, value = (_expand(array, leading, array.shape[-3:]) for array in (query, key, value))
    shape = (*leading, *query.shape[-3:-1], value.shape[-1])
    out = query.new_empty(shape) if is_tensor(query) else numpy.empty(shape, query.dtype)
    if attn_mask is not None:
        attn_mask = _sliceable(attn_mask, "attn_mask")
        attn_mask = _expand(attn_mask, leading, (*shape[-3:-1], key.shape[-2]))
    for index in itertools.product(*map(range, leading[:-1])):
        mask = None if attn_mask is None else attn_mask[index]
        _batch(query[index], key[index], value[index], mask, is_causal, scale, enable_gqa, out[index])
    return out


def _sliceable(array, name):
    return array if is_tensor(array) else as_ndarray(array, name)


def _expand(array, leading, trailing):
    if is_tensor(array):
        return sys.modules["torch"].broadcast_to(array, (*leading, *trailing))
    return numpy.broadcast_to(array, (*leading, *trailing))

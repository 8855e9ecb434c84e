"""PyTorch's scaled_dot_product_attention, for any array."""

import itertools
import sys

import numpy

from mfa import _keywords
from mfa._call import ForwardCall
from mfa._context import default_context
from mfa._inputs import Inputs
from mfa._numpy import as_ndarray, empty_like_kind, is_tensor

NAMES = ("query", "key", "value", "attn_mask")


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """``torch.nn.functional.scaled_dot_product_attention`` on NumPy, torch and other arrays.

    Parameters
    ----------
    query : array (..., H, N, D) of float32, float16 or bfloat16
        From two axes up. Axes before N, but for H with `enable_gqa`, broadcast between query, key and value,
        without a copy; beyond one axis before H, each index is a call of its own.
    key : array (..., H, S, D), dtype as query
    value : array (..., H, S, Dv), dtype as query
    attn_mask : array or None, default None
        bool (True = attend) or floating (added to the scores); broadcast to (..., H, N, S).
    dropout_p : float, default 0.0
        Probability that a softmax weight becomes 0, while the others are divided by ``1 - dropout_p``; at
        least 0 and, unlike in PyTorch, less than 1. Other weights are dropped than PyTorch would drop. Each
        call draws a seed: from torch's default CPU generator if query is a tensor, so that
        ``torch.manual_seed`` repeats it, else from NumPy's global one. 0.0 draws nothing.
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

    Notes
    -----
    May be called from any number of threads. Gradients are not recorded, but `mfa.attention_backward`
    computes them: a tensor that requires grad is refused unless grad mode is off. After dropout they need
    the seed, which only `mfa.attention` takes.
    """
    dropout_p = _keywords.dropout_p(dropout_p)
    is_causal = _keywords.flag(is_causal, "is_causal")
    enable_gqa = _keywords.flag(enable_gqa, "enable_gqa")
    scale = _keywords.softmax_scale(scale, "scale")
    if is_causal and attn_mask is not None:
        raise ValueError("attn_mask: given together with is_causal=True, expected None")
    options = {"causal": is_causal, "softmax_scale": scale, "grouped": enable_gqa}
    if dropout_p:
        options |= {"dropout_p": dropout_p, "dropout_seed": _draw_seed(query)}
    if max(getattr(array, "ndim", 0) for array in (query, key, value)) > 4:
        return _each_batch(query, key, value, attn_mask, options)
    return _batch(query, key, value, attn_mask, options)


def _draw_seed(like):
    """A number from the generator that the caller of `like`'s library seeds."""
    if is_tensor(like):
        torch = sys.modules["torch"]
        return torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu").item()
    return int(numpy.random.randint(2**63 - 1, dtype=numpy.int64))


def _batch(query, key, value, mask, options, out=None):
    inputs = _inputs(query, key, value, mask=mask, **options)
    return ForwardCall(inputs, out=out).run(default_context())


def _inputs(query, key, value, **options):
    return Inputs(
        query,
        key,
        value,
        heads_first=True,
        loose=True,
        alignment=_keywords.ALIGNMENTS["top-left"],
        names=NAMES,
        **options,
    )


def _each_batch(query, key, value, mask, options):
    """One call for each index of the axes before the last four, so that none needs a copy to be merged."""
    like = query
    query, key, value = arrays = [
        as_ndarray(array, name) for array, name in zip((query, key, value), NAMES, strict=False)
    ]
    for array, name in zip(arrays, NAMES, strict=False):
        if array.ndim < 2:
            raise ValueError(f"{name}: {array.ndim} dimensions, expected at least 2")
    ndim = max(array.ndim for array in arrays)
    query, key, value = arrays = [array[(None,) * (ndim - array.ndim)] for array in arrays]
    try:
        leading = numpy.broadcast_shapes(*(array.shape[:-3] for array in arrays))
    except ValueError:
        shapes = ", ".join(str(array.shape[:-3]) for array in arrays)
        raise ValueError(f"query, key, value: leading axes {shapes}, expected some that broadcast") from None
    mask = None if mask is None else as_ndarray(mask, "attn_mask")
    # Here rather than in the calls, of which an empty axis leaves none.
    shape = _inputs(
        *(_stand_in(array, array.shape[-3:]) for array in arrays),
        mask=None if mask is None else _stand_in(mask, ()),
        planning=True,
        **options,
    ).shape
    out = empty_like_kind(like, (*leading, *shape), query.dtype)
    if mask is not None:
        mask = _broadcast_mask(mask, (*leading, *shape[:-1], key.shape[-2]))
    query, key, value = (numpy.broadcast_to(array, (*leading, *array.shape[-3:])) for array in arrays)
    results = as_ndarray(out, "out")
    for number, index in enumerate(itertools.product(*map(range, leading[:-1]))):
        _batch(
            query[index],
            key[index],
            value[index],
            None if mask is None else mask[index],
            options | {"dropout_offset": number},
            results[index],
        )
    return out


def _stand_in(array, shape):
    """An array of that shape and the dtype of `array`, without memory to speak of."""
    return numpy.broadcast_to(numpy.empty((), array.dtype), shape)


def _broadcast_mask(mask, scores):
    try:
        return numpy.broadcast_to(mask, scores)
    except ValueError:
        raise ValueError(f"attn_mask: shape {mask.shape}, expected one that broadcasts to {scores}") from None

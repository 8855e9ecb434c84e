"""PyTorch's scaled_dot_product_attention, for any array."""

import itertools
import sys
from typing import Any

import numpy

from mfa import _keywords
from mfa._attention_keywords import HEADS_FIRST
from mfa._call import ForwardCall
from mfa._forward import eager, forward, way_of
from mfa._inputs import Inputs
from mfa._memory import are_plain_tensors, as_ndarray, known, rank_of
from mfa._messages import shown
from mfa._quantized_tensor import QuantizedTensor
from mfa._tensors import is_compiled, is_tensor, is_traced, new_array

MOST_AXES = 32  # that NumPy broadcasts
PLAIN = HEADS_FIRST
NAMES = {"mask": "attn_mask", "softmax_scale": "scale"}


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``torch.nn.functional.scaled_dot_product_attention`` on NumPy, torch and other arrays.

    Parameters
    ----------
    query : array (..., H, N, D) of float32, float16 or bfloat16
        From two axes up. Axes before N, but for H with `enable_gqa`, broadcast between query, key and value,
        without a copy; beyond one axis before H, each index is a call of its own.
    key : array (..., H, S, D), dtype as query
    value : array (..., H, S, Dv), dtype as query
        Either may be a QuantizedTensor of layout "bhsd" instead, where no array has more than 4 axes. Its
        products are computed exactly; `mfa.quantized.QuantizedFlashAttention` is this function with, in its
        `config`, a `compute_mode`.
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
    May be called from any number of threads. Gradients of torch tensors are recorded, as `mfa.attention`
    says. Of other arrays `mfa.attention_backward` computes them; after dropout they need the seed, which only
    `mfa.attention` takes.
    """
    keywords = PLAIN
    has_dropout = type(dropout_p) is not float or dropout_p != 0
    if has_dropout or is_causal is not False or attn_mask is not None or scale is not None:
        dropout_p = _keywords.dropout_p(dropout_p)
        is_causal = _keywords.flag(is_causal, "is_causal")
        if is_causal and attn_mask is not None:
            raise ValueError("attn_mask: given together with is_causal=True, expected None")
        keywords = PLAIN | {
            "causal": "top-left" if is_causal else None,
            "softmax_scale": scale,
            "dropout_p": dropout_p,
            "mask": attn_mask,
        }
    if enable_gqa is not False:
        enable_gqa = _keywords.flag(enable_gqa, "enable_gqa")
    if type(query) is type(key) is type(value) is numpy.ndarray:  # the usual case, without further questions
        most_axes = max(query.ndim, key.ndim, value.ndim)
    elif is_compiled():
        most_axes = max(len(query.shape), len(key.shape), len(value.shape))
    elif are_plain_tensors(query, key, value):
        most_axes = max(query.ndim, key.ndim, value.ndim)
        if most_axes <= 4 and not dropout_p:
            return eager(query, key, value, keywords, NAMES, True, enable_gqa)
    else:
        query, key, value = known(query, "query"), _known(key, "key"), _known(value, "value")
        most_axes = max(rank_of(query), _rank(key), _rank(value))
    if dropout_p:
        keywords["dropout_seed"] = draw_seed(query)
    if most_axes > 4:
        if QuantizedTensor in (type(key), type(value)):
            raise ValueError(
                f"query: {rank_of(query)} dimensions, expected at most 4 beside a QuantizedTensor"
            )
        if way_of(query, key, value, keywords) is not None:
            from mfa.torch._batches import each_batch  # torch is there

            return each_batch(query, key, value, enable_gqa, keywords)
        return _each_batch(query, key, value, enable_gqa, dict(keywords))
    return forward(query, key, value, keywords, names=NAMES, loose=True, grouped=enable_gqa)


def _known(array, name):
    return array if type(array) is QuantizedTensor else known(array, name)


def _rank(array):
    return len(array.shape) if type(array) is QuantizedTensor else rank_of(array)


def _inputs(query, key, value, grouped, keywords, planning=False):
    return Inputs(query, key, value, keywords, names=NAMES, loose=True, grouped=grouped, planning=planning)


def draw_seed(like):
    """A number, or a tensor of it, from the generator that the caller of `like`'s library seeds."""
    if is_tensor(like):
        torch = sys.modules["torch"]
        seed = torch.randint(2**63 - 1, (), dtype=torch.int64, device="cpu")
        # A program that is traced draws another one each time it runs.
        return seed if is_compiled() or is_traced(like, None, None, {}) else seed.item()
    return int(numpy.random.randint(2**63 - 1, dtype=numpy.int64))


def _each_batch(query, key, value, grouped, keywords):
    """One call for each index of the axes before the last four, so that none needs a copy to be merged."""
    like = query
    query, key, value = arrays = [
        as_ndarray(array, name) for array, name in ((query, "query"), (key, "key"), (value, "value"))
    ]
    for array, name in zip(arrays, ("query", "key", "value"), strict=True):
        if not 2 <= array.ndim <= MOST_AXES:
            expected = "at least 2" if array.ndim < 2 else f"at most {MOST_AXES}"
            raise ValueError(f"{name}: {array.ndim} dimensions, expected {expected}")
    ndim = max(array.ndim for array in arrays)
    query, key, value = arrays = [array[(None,) * (ndim - array.ndim)] for array in arrays]
    try:
        leading = numpy.broadcast_shapes(*(array.shape[:-3] for array in arrays))
    except ValueError:
        shapes = ", ".join(shown(array.shape[:-3]) for array in arrays)
        raise ValueError(f"query, key, value: leading axes {shapes}, expected some that broadcast") from None
    mask = keywords["mask"]
    mask = None if mask is None else as_ndarray(mask, "attn_mask")
    # Here rather than in the calls, of which an empty axis leaves none.
    stand_ins = [_stand_in(array, array.shape[-3:]) for array in arrays]
    keywords["mask"] = None if mask is None else _stand_in(mask, ())
    shape = _inputs(*stand_ins, grouped, keywords, planning=True).shape
    out = new_array(like, (*leading, *shape), query.dtype)
    if mask is not None:
        mask = _broadcast_mask(mask, (*leading, *shape[:-1], key.shape[-2]))
    results = as_ndarray(out, "out")
    if results.size == 0:
        return out
    query, key, value = (numpy.broadcast_to(array, (*leading, *array.shape[-3:])) for array in arrays)
    for number, index in enumerate(itertools.product(*map(range, leading[:-1]))):
        keywords |= {"mask": None if mask is None else mask[index], "dropout_offset": number}
        inputs = _inputs(query[index], key[index], value[index], grouped, keywords)
        ForwardCall(inputs, out=results[index]).run()
    return out


def _stand_in(array, shape):
    """An array of that shape and the dtype of `array`, without memory to speak of."""
    return numpy.broadcast_to(numpy.empty((), array.dtype), shape)


def _broadcast_mask(mask, scores):
    try:
        return numpy.broadcast_to(mask, scores)
    except ValueError:
        raise ValueError(
            f"attn_mask: shape {shown(mask.shape)}, expected one that broadcasts to {shown(scores)}"
        ) from None

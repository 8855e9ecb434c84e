"""What FlashAttention-2's functions have in common."""

import numpy

from mfa import _keywords
from mfa._attention_keywords import DEFAULTS
from mfa._forward import forward
from mfa._memory import known
from mfa._messages import shown
from mfa._sdpa import draw_seed
from mfa._tensors import is_compiled, is_tensor

NAMES = {"query": "q", "key": "k", "value": "v", "window": "window_size"}
KV_PACKED = {"query": "q", "key": "kv", "value": "kv", "window": "window_size"}
QKV_PACKED = {"query": "qkv", "key": "qkv", "value": "qkv", "window": "window_size"}


def scoring(softmax_scale, causal, window_size, softcap, alibi_slopes, dropout_p=0.0, dropout_seed=0):
    """What all of them say of scores and weights, as keywords of `mfa.attention`."""
    return DEFAULTS | {
        "softmax_scale": softmax_scale,
        "causal": _keywords.flag(causal, "causal"),
        "alignment": "bottom-right",
        "window": window_size,
        "softcap": softcap,
        "alibi_slopes": alibi_slopes,
        "dropout_p": dropout_p,
        "dropout_seed": dropout_seed,
    }


def seed_of(dropout_p, q):
    """A seed for a call that drops weights, from the generator that the caller seeds; 0 for any other."""
    return draw_seed(q) if _keywords.dropout_p(dropout_p) else 0


def attend(q, k, v, lists, names, *, dropout_p, return_attn_probs, **scores):
    """One call of `mfa.attention`, with what FlashAttention-2 returns."""
    keywords = scoring(dropout_p=dropout_p, dropout_seed=seed_of(dropout_p, q), **scores) | lists
    return_attn_probs = _keywords.flag(return_attn_probs, "return_attn_probs")
    result = forward(q, k, v, keywords, names=names, return_lse=return_attn_probs)
    if not return_attn_probs:
        return result
    out, lse = result
    return out, lse, no_probabilities(out)


def no_probabilities(out):
    """What stands for the matrix of weights, which is never in memory."""
    return out.detach().new_empty(0) if is_tensor(out) else numpy.empty(0, out.dtype)


def unpacked(array, name, count, axis):
    """Views of the `count` arrays that one holds along `axis`; their gradients meet in one copy."""
    if not is_compiled():  # which knows tensors alone
        array = known(array, name)
    ndim = axis + 3
    if array.ndim != ndim:
        raise ValueError(f"{name}: {array.ndim} dimensions, expected {ndim}")
    if array.shape[axis] != count:
        raise ValueError(
            f"{name}: shape {shown(tuple(array.shape))}, expected {count} on axis {axis}, before the heads"
        )
    return array.unbind(axis) if is_tensor(array) else tuple(numpy.moveaxis(array, axis, 0))

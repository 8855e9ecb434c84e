"""The attention that models call."""

from typing import Any

import torch

from mfa._attention_keywords import DEFAULTS
from mfa._forward import forward
from mfa._messages import shown
from mfa._sdpa import draw_seed
from mfa.transformers._lazy_mask import LazyMask, recipe_of
from mfa.transformers._patterns import Pattern
from mfa.transformers._visible import Call, packed_call

NAMES = {
    "softmax_scale": "scaling",
    "dropout_p": "dropout",
    "mask": "attention_mask",
    "bias": "position_bias",
    "sinks": "s_aux",
    "window": "sliding_window",
    "cu_seqlens_q": "cu_seq_lens_q",
    "cu_seqlens_k": "cu_seq_lens_k",
}

# What models say of keys to functions that they know by name, and to these in place of a mask.
SELECTIONS = ("indices", "block_indices")


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    is_causal: bool | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as models of Transformers call it, registered there under the name "mfa".

    Parameters
    ----------
    module : torch.nn.Module
        Whose `is_causal` counts where the argument is None.
    query : Tensor (B, H, N, D) of float32, float16 or bfloat16
        Of any strides.
    key : Tensor (B, Hkv, S, D), dtype as query
    value : Tensor (B, Hkv, S, Dv), dtype as query
        H is a multiple of Hkv. A batch of 1 goes with any.
    attention_mask : Tensor or None
        bool (True = attend) or floating (added to the scores), broadcast to (B, H, N, S); or what
        `mfa.transformers.attention_mask` makes. None is causal if `is_causal` is and N is more than 1: row i
        sees keys up to i.
    dropout : float, default 0.0
        As `dropout_p` of `mfa.scaled_dot_product_attention`.
    scaling : float or None, default None
        None is ``1 / sqrt(D)``.
    sliding_window : int or None, default None
        Looked at with `cu_seq_lens_q` alone: masks have it in them.
    softcap : float or None, default None
        Scaled scores become ``softcap * tanh(score / softcap)``.
    s_aux : Tensor (H), floating, or None, default None
        One more logit a head, in the softmax's denominator only.
    position_bias : Tensor, floating, or None, default None
        Added to the scores, broadcast to (B, H, N, S).
    is_causal : bool or None, default None
    cu_seq_lens_q, cu_seq_lens_k : Tensor (sequences + 1) of int32, or None, default None
        Where sequences begin that are packed one behind the other. Not looked at beside a mask of another
        kind than `mfa.transformers.attention_mask` makes, nor beside one that knows better or has padding.
    others
        Ignored, other than what would choose keys or ask for weights.

    Returns
    -------
    out : Tensor (B, N, H, Dv)
        Contiguous, dtype as query. A row that sees no key is 0.
    weights : None

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`; the message names the argument.

    Notes
    -----
    May be called from any number of threads. Gradients of query, key, value, a floating `attention_mask`,
    `s_aux` and `position_bias` are recorded.
    """
    require_known(module, others)
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        query, key, value = common_batch(query, key, value)
    is_causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    starts = None if cu_seq_lens_q is None or cu_seq_lens_k is None else (cu_seq_lens_q, cu_seq_lens_k)
    if starts is not None and (attention_mask is None or is_batched(others)):
        # Continuous batching says False beside its mask, of sequences that are causal.
        call = packed_call(windowed(is_causal or is_batched(others), sliding_window), *starts)
    elif attention_mask is not None:
        call = call_of_mask(attention_mask, query.shape[2], key.shape[2], position_bias is not None, starts)
    elif is_causal and query.shape[2] > 1:
        # Behind as many keys there is what a static cache has not been given yet.
        call = Call({"causal": "top-left", "alignment": "top-left"}, 0, query.shape[2])
    else:
        call = Call({})
    keywords = DEFAULTS | call.keywords
    keywords["softmax_scale"] = scaling
    keywords["sinks"] = s_aux
    if softcap is not None:
        keywords["softcap"] = softcap
    if dropout:
        keywords["dropout_p"], keywords["dropout_seed"] = dropout, draw_seed(query)
    if position_bias is not None:
        keywords |= biased(position_bias, call, key.shape[2])
    return attend(query, key, value, call, keywords), None


def call_of_mask(mask, rows, keys, is_biased, starts):
    """The Call for a mask, or for sequences that begin at `starts` where it does not know of any."""
    # What a compiled program does cannot depend on numbers, as the way to say it does.
    recipe = None if torch.compiler.is_compiling() else recipe_of(mask)
    call = None
    if recipe is not None:
        if starts is not None and recipe.present is None and recipe.pattern.sequences is None:
            return packed_call(recipe.pattern, *starts)
        if recipe.shape[2:] != (rows, keys):
            shape = shown(recipe.shape)
            raise ValueError(f"attention_mask: shape {shape}, expected {rows} queries and {keys} keys")
        call = recipe.call_beside_bias if is_biased else recipe.call
    if call is None:
        call = Call({"mask": mask.dense() if isinstance(mask, LazyMask) else mask})
    return call


def attend(query, key, value, call, keywords):
    """The result (B, N, H, Dv) for operands with heads first."""
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    if call.is_packed:
        batch = query.shape[:2]
        query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
        return forward(query, key, value, keywords, names=NAMES).unflatten(0, batch)
    if call.start or call.stop is not None:
        key, value = key[:, call.start : call.stop], value[:, call.start : call.stop]
    return forward(query, key, value, keywords, names=NAMES)


def require_known(module, others):
    """Refuse what a model says of keys, or asks for, that is no part of this."""
    name_of_attention = getattr(getattr(module, "config", None), "_attn_implementation", None)
    has_mask = name_of_attention == "sdpa" and not is_batched(others)
    for name in SELECTIONS:
        if others.get(name) is not None and not has_mask:
            raise ValueError(
                f"{name}: given, expected None; models that choose keys themselves make a mask of them for "
                'attn_implementation="sdpa", which mfa.transformers.replace_sdpa() is about, and which no '
                "continuous batch reads"
            )
    if others.get("sinks") is not None:
        raise ValueError(
            "sinks: given, expected None, or s_aux, as sinks are one a head here; "
            'attn_implementation="eager" has others'
        )
    if others.get("output_attentions"):
        raise ValueError(
            "output_attentions: True, expected False, as there are no weights here; "
            'attn_implementation="eager" has them'
        )


def is_batched(others):
    """Whether the call is of a batch that is continuous."""
    return "read_index" in others


def common_batch(*tensors):
    batch = max(tensor.shape[0] for tensor in tensors)
    return [tensor.expand(batch, -1, -1, -1) if tensor.shape[0] == 1 else tensor for tensor in tensors]


def windowed(is_causal, width):
    pattern = Pattern(causal=is_causal)
    return pattern if width is None else pattern.within(width - 1, width - 1)


def biased(bias, call, keys):
    """Keywords for a bias and the call's mask, of which one may be floating beside one that is not."""
    if call.is_packed:
        raise ValueError("position_bias: given beside cu_seq_lens_q, expected None")
    if bias.shape[-1] == keys:
        bias = bias[..., call.start : call.stop]
    mask = call.keywords.get("mask")
    return {"bias": bias} if mask is None or mask.dtype == torch.bool else {"mask": mask + bias}

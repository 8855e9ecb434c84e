"""The function that makes masks for models whose attention is mfa's."""

from typing import Any

import torch
from transformers.masking_utils import causal_mask_function, eager_mask, sdpa_mask
from transformers.utils.import_utils import is_tracing

from mfa.transformers._lazy_mask import LazyMask, with_recipe
from mfa.transformers._models import has_own_attention, is_for_eager_masks
from mfa.transformers._patterns import pattern_of
from mfa.transformers._visible import Visible


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Any = causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    allow_is_bidirectional_skip: bool = False,
    use_vmap: bool = False,
    device: Any = "cpu",
    config: Any = None,
    **others: Any,
) -> torch.Tensor | None:
    """A mask for `mfa.transformers.attention`, by what Transformers asks of such functions.

    Causality, windows, chunks, padding and packed sequences are said by a tensor (B, 1, N, S) of bool without
    memory, which turns into a mask if anything else computes with it. What is made of other functions, and
    while torch traces, is the mask in memory that Transformers' own `sdpa_mask` makes; what a model asks for
    that is written for eager attention alone, by the name "mfa", is what `eager_mask` does.

    Parameters
    ----------
    batch_size, q_length, kv_length, ..., device
        As for ``transformers.masking_utils.sdpa_mask``.
    config : transformers.PreTrainedConfig or None, default None
        Of the model that the mask is for; None is one that calls attention by its name.
    **others
        What `eager_mask` takes besides.

    Returns
    -------
    Tensor or None
        None where `sdpa_mask` may return it and nothing is hidden, or nothing but by causality.
    """
    request = {
        "batch_size": batch_size,
        "q_length": q_length,
        "kv_length": kv_length,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": mask_function,
        "attention_mask": attention_mask,
        "local_size": local_size,
        "use_vmap": use_vmap,
        "device": device,
    }
    # Transformers has asked all of this of models before they have the name "sdpa".
    if getattr(config, "_attn_implementation", None) == "mfa":
        if has_own_attention(type(config)):
            return eager_mask(**request, **others, allow_is_bidirectional_skip=allow_is_bidirectional_skip)
        if is_for_eager_masks(type(config)):
            return eager_mask(**request, **others)
    pattern = None
    if not (use_vmap or is_tracing(attention_mask) or is_tracing(q_offset)):
        pattern = pattern_of(mask_function)
    if pattern is None:
        return sdpa_mask(
            **request,
            allow_is_causal_skip=allow_is_causal_skip,
            allow_is_bidirectional_skip=allow_is_bidirectional_skip,
        )
    visible = Visible(pattern, request)
    if (allow_is_causal_skip if pattern.causal else allow_is_bidirectional_skip) and is_implied(visible):
        return None
    if q_length == 1 and isinstance(q_offset, torch.Tensor):
        # The step may be compiled, and the mask is no larger than a key.
        return with_recipe(visible)
    return LazyMask(visible)


def is_implied(visible):
    """Whether no mask says the same, to the function that is called with none."""
    call = visible.call
    if call is None or call.is_packed or call.keywords["window"] != (-1, -1):
        return False
    if call.keywords.keys() - {"causal", "alignment", "window"}:
        return False
    _, _, rows, keys = visible.shape
    if rows == 1 or not visible.pattern.causal:
        return (call.start, call.stop) == (0, keys)
    return visible.shift == 0

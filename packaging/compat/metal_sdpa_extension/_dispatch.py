"""PyTorch's scaled_dot_product_attention run by mfa, quantised where that is the mode."""

import torch

import mfa
from metal_sdpa_extension._modes import (
    GRANULARITIES,
    PRECISIONS,
    QUANT_NONE,
    QUANT_TENSOR_WISE,
    known,
    layer_of_mode,
)
from metal_sdpa_extension._statistics import count
from mfa.torch import _replace
from mfa.torch._cache_tag import tag_caches, untag_caches

_mode = (QUANT_NONE, QUANT_TENSOR_WISE)
_registered = set()
_tag = ""


def set_quantization_mode(precision: int, block_mode: int) -> None:
    """Have calls of PyTorch's function that mfa runs quantise keys and values.

    A function that was compiled keeps the mode that it was traced in.

    Parameters
    ----------
    precision : {QUANT_INT8, QUANT_INT4, QUANT_NONE}
    block_mode : {QUANT_TENSOR_WISE, QUANT_BLOCK_WISE}
        Whether all share one scale, or 64 rows of a head each.

    Raises
    ------
    ValueError
        Another number.
    """
    global _mode, _tag
    known(precision, "precision", {QUANT_NONE: None, **PRECISIONS})
    known(block_mode, "block_mode", GRANULARITIES)
    _mode = precision, block_mode
    # What the compiler keeps on disk is of this mode alone.
    untag_caches(_tag)
    _tag = f"mfa-codes-{precision}-{block_mode}"
    if precision != QUANT_NONE:
        tag_caches(_tag)


def clear_quantization_mode() -> None:
    """Have nothing quantised again."""
    set_quantization_mode(QUANT_NONE, QUANT_TENSOR_WISE)


def register_backend(device: str = "mps") -> None:
    """Have mfa run PyTorch's function for tensors on a device, as importing this module has for MPS.

    Parameters
    ----------
    device : {"mps", "cpu"}, default "mps"

    Raises
    ------
    ValueError
        Another device.
    """
    known(device, "device", {"mps": None, "cpu": None})
    if device not in _registered:
        _replace.override(device.upper())
        _registered.add(device)


def unregister_backend() -> None:
    """Give PyTorch's function back to PyTorch, on all devices."""
    while _registered:
        _replace.restore(_registered.pop().upper())


class MetalSDPABackend:
    """`register_backend` and `unregister_backend` as static methods."""

    register_backend = staticmethod(register_backend)
    unregister_backend = staticmethod(unregister_backend)


def scaled_dot_product_attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """What mfa runs for PyTorch's function, counted."""
    is_counted = _replace._is_counted(query)
    skipped = is_counted and is_all_true(attn_mask, (*query.shape[:-1], key.shape[-2]))
    if skipped:
        attn_mask = None
    precision, block_mode = _mode
    if precision == QUANT_NONE:
        result = mfa.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        )
        name = "fp32_instream" if query.is_mps else "fp32_direct"
        name = "fp32_autograd" if result.requires_grad else name
    else:
        layer = layer_of_mode(precision, block_mode)
        result = layer(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        name = "quantized_autograd"
    if is_counted:
        count(name, *["mask_all_true_skipped"] * skipped)
    return result


def is_all_true(mask, scores):
    """Whether it hides nothing of `scores`, as masks that a model makes of lengths often do not."""
    if type(mask) is not torch.Tensor or mask.dtype != torch.bool or mask.dim() > len(scores):
        return False
    sizes = zip(mask.shape[::-1], scores[::-1], strict=False)
    return all(size in (1, whole) for size, whole in sizes) and bool(mask.all())


_replace.run_by(scaled_dot_product_attention)

"""Attention of tensors (B, H, N, D), with gradients."""

import torch

import mfa
from metal_sdpa_extension._modes import QUANT_INT8, QUANT_TENSOR_WISE, layer_of_mode
from metal_sdpa_extension._statistics import count
from mfa.torch import _replace


def metal_scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What PyTorch's function of these arguments comes to while mfa runs it.

    Parameters
    ----------
    query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
        As for ``torch.nn.functional.scaled_dot_product_attention``.

    Returns
    -------
    Tensor (..., H, N, Dv)

    Raises
    ------
    RuntimeError
        From PyTorch, which runs what mfa cannot.
    """
    return _replace._above_autograd(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )


def metal_flash_attention_autograd(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool = False,
    scale: float = 0.0,
) -> torch.Tensor:
    """`mfa.scaled_dot_product_attention`, not counted.

    Parameters
    ----------
    query, key, value, is_causal
        As there.
    scale : float, default 0.0
        0.0 is ``1 / sqrt(D)``.

    Returns
    -------
    Tensor (..., H, N, Dv)

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As there.
    """
    return mfa.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale or None)


def metal_quantized_flash_attention_autograd(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_causal: bool = False,
    scale: float = 0.0,
    target_precision: int = QUANT_INT8,
    quant_mode: int = QUANT_TENSOR_WISE,
    attn_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`metal_flash_attention_autograd` to quantised keys and values, by the straight-through estimator.

    Parameters
    ----------
    query, key, value, is_causal, scale
        As there.
    target_precision : {QUANT_INT8, QUANT_INT4}, default QUANT_INT8
    quant_mode : {QUANT_TENSOR_WISE, QUANT_BLOCK_WISE}, default QUANT_TENSOR_WISE
        Whether all share one scale, or 64 rows of a head each.
    attn_mask : Tensor or None, default None
        bool (True = attend) or floating (added to the scores); broadcast to (B, H, N, S).

    Returns
    -------
    Tensor (..., H, N, Dv), dtype as query

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.torch.quantized.QuantizedFlashAttention`.
    """
    layer = layer_of_mode(target_precision, quant_mode)
    return layer(query, key, value, attn_mask, is_causal=is_causal, scale=scale or None)


def rope_scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rope_cos: torch.Tensor,
    rope_sin: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of queries and keys that are turned first, by pairs of neighbouring columns.

    Parameters
    ----------
    query : Tensor (B, H, N, D)
        D is even.
    key, value : Tensor (B, Hkv, N, D)
        Heads may be fewer by a whole factor.
    rope_cos, rope_sin : Tensor (N, D), (1, N, D) or (B, N, D)
        Floating, with each number in both columns of its pair; rows beyond N are not used.
    attn_mask, is_causal, scale
        As for `mfa.scaled_dot_product_attention`.

    Returns
    -------
    Tensor (B, H, N, D), dtype as query

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As there; ValueError also for tables of another shape.
    """
    for name, tensor in (("query", query), ("key", key)):
        if tensor.dim() != 4:
            raise ValueError(f"{name}: {tensor.dim()} dimensions, expected 4")
        if tensor.shape[3] % 2:
            raise ValueError(f"{name}: {tensor.shape[3]} columns, expected pairs of them")
        for table_name, table in (("rope_cos", rope_cos), ("rope_sin", rope_sin)):
            require_table(table, table_name, tensor, name)
    result = mfa.scaled_dot_product_attention(
        turned(query, rope_cos, rope_sin),
        turned(key, rope_cos, rope_sin),
        value,
        attn_mask,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=True,
    )
    count("rope_instream", *["rope_autograd"] * result.requires_grad)
    return result


def require_table(table, name, tensor, of):
    batch, _, rows, columns = tensor.shape
    has_batch = table.dim() == 2 or (table.dim() == 3 and table.shape[0] in (1, batch))
    if not has_batch or table.shape[-2] < rows or table.shape[-1] != columns:
        raise ValueError(
            f"{name}: shape {tuple(table.shape)}, expected ({rows}, {columns}), or one for each of {batch} "
            f"batches, as {of} has"
        )


def turned(tensor, cos, sin):
    """(B, H, N, D) with each pair of columns turned, in float32 on the way."""
    rows = tensor.shape[2]
    cos, sin = (
        table.to(tensor.device, torch.float32)[..., :rows, :].reshape(-1, 1, rows, tensor.shape[3])
        for table in (cos, sin)
    )
    floats = tensor.float()
    even, odd = floats.unflatten(-1, (-1, 2)).unbind(-1)
    quarter = torch.stack((-odd, even), -1).flatten(-2)
    return (floats * cos + quarter * sin).to(tensor.dtype)

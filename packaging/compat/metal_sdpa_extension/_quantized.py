"""Attention to keys and values that are quantised as a configuration says."""

import torch

from metal_sdpa_extension._configuration import (
    OutputPrecision,
    QuantizationConfig,
    QuantizationGranularity,
    QuantizationPrecision,
)
from metal_sdpa_extension._modes import known, layer

PRECISIONS = {"int8": QuantizationPrecision.INT8, "int4": QuantizationPrecision.INT4}


def quantized_scaled_dot_product_attention_unified(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, config: QuantizationConfig
) -> torch.Tensor:
    """Attention of tensors (B, H, N, D) to keys and values that are quantised on the way.

    Parameters
    ----------
    query, key, value
        As for `mfa.scaled_dot_product_attention`.
    config : QuantizationConfig

    Returns
    -------
    Tensor (..., H, N, Dv)
        Of `config.output_precision`.

    Raises
    ------
    NotImplementedError
        Hybrid granularity, or queries of INT4.
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.torch.quantized.QuantizedFlashAttention`.
    """
    return _attention(query, key, value, config, OutputPrecision(config.output_precision).name.lower())


quantized_scaled_dot_product_attention_with_config = quantized_scaled_dot_product_attention_unified
quantized_scaled_dot_product_attention_enhanced = quantized_scaled_dot_product_attention_unified


def quantized_scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    precision: str = "int8",
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """`quantized_scaled_dot_product_attention_unified`, told the most important, with one scale for all.

    Parameters
    ----------
    query, key, value, is_causal, scale
        As for `mfa.scaled_dot_product_attention`.
    precision : {"int8", "int4"}, default "int8"

    Returns
    -------
    Tensor (..., H, N, Dv), dtype as query

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As there.
    """
    config = QuantizationConfig(precision=precision, is_causal=is_causal, scale=scale)
    return _attention(query, key, value, config, None)


def _attention(query, key, value, config, output_precision):
    if config.query_precision == QuantizationPrecision.INT4:
        raise NotImplementedError("config.query_precision: INT4, expected INT8 or a floating one")
    precisions = [config.key_precision, config.value_precision]
    if known(config.precision, "config.precision", PRECISIONS) == QuantizationPrecision.INT4:
        fewer_bits = {QuantizationPrecision.INT8: QuantizationPrecision.INT4}
        precisions = [fewer_bits.get(each, each) for each in precisions]
    blocks = config.block_sizes.key_block_size, config.block_sizes.value_block_size
    said = {
        f"{name}_granularity": _granularity(config.granularity, block)
        for name, each, block in zip(("key", "value"), precisions, blocks, strict=True)
        if each >= QuantizationPrecision.INT8
    }
    if config.query_precision == QuantizationPrecision.INT8:
        said["compute_mode"] = "int8"
    if output_precision is not None:
        said["output_precision"] = output_precision
    names = [QuantizationPrecision(each).name.lower() for each in precisions]
    return layer(*names, *said.items())(query, key, value, is_causal=config.is_causal, scale=config.scale)


def _granularity(granularity, block):
    """As `mfa.quantize` takes it."""
    if granularity == QuantizationGranularity.HYBRID:
        raise NotImplementedError("config.granularity: HYBRID, expected TENSOR_WISE, ROW_WISE or BLOCK_WISE")
    names = {
        QuantizationGranularity.TENSOR_WISE: "tensor",
        QuantizationGranularity.ROW_WISE: "token",
        QuantizationGranularity.BLOCK_WISE: f"block{block}",
    }
    return names[QuantizationGranularity(granularity)]

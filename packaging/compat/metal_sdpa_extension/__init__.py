"""Attention of tensors by the names of the original's extension, computed by mfa.

Importing it has mfa run PyTorch's ``scaled_dot_product_attention`` on MPS tensors, as importing the original
does; `unregister_backend` gives it back.
"""

from umfa.utils import get_version, is_metal_available

from metal_sdpa_extension._attention import (
    metal_flash_attention_autograd,
    metal_quantized_flash_attention_autograd,
    metal_scaled_dot_product_attention,
    rope_scaled_dot_product_attention,
)
from metal_sdpa_extension._configuration import (
    BlockSizeConfig,
    HybridGranularityConfig,
    HybridStrategy,
    OutputPrecision,
    QuantizationConfig,
    QuantizationGranularity,
    QuantizationPrecision,
    TensorAnalysisMetrics,
)
from metal_sdpa_extension._dispatch import (
    MetalSDPABackend,
    clear_quantization_mode,
    register_backend,
    set_quantization_mode,
    unregister_backend,
)
from metal_sdpa_extension._latent import (
    MlaContext,
    mla_create_context,
    mla_destroy_context,
    mla_forward,
    mla_init_weights,
    mla_load_weights,
)
from metal_sdpa_extension._modes import (
    QUANT_BLOCK_WISE,
    QUANT_INT4,
    QUANT_INT8,
    QUANT_NONE,
    QUANT_TENSOR_WISE,
)
from metal_sdpa_extension._quantized import (
    quantized_scaled_dot_product_attention,
    quantized_scaled_dot_product_attention_enhanced,
    quantized_scaled_dot_product_attention_unified,
    quantized_scaled_dot_product_attention_with_config,
)
from metal_sdpa_extension._scores import hadamard_rotate, sparse_indexer_scores
from metal_sdpa_extension._statistics import get_dispatch_stats, reset_dispatch_stats

__all__ = [
    "QUANT_BLOCK_WISE",
    "QUANT_INT4",
    "QUANT_INT8",
    "QUANT_NONE",
    "QUANT_TENSOR_WISE",
    "BlockSizeConfig",
    "HybridGranularityConfig",
    "HybridStrategy",
    "MetalSDPABackend",
    "MlaContext",
    "OutputPrecision",
    "QuantizationConfig",
    "QuantizationGranularity",
    "QuantizationPrecision",
    "TensorAnalysisMetrics",
    "clear_quantization_mode",
    "get_dispatch_stats",
    "get_version",
    "hadamard_rotate",
    "has_native_bfloat",
    "has_native_bfloat_msl32",
    "is_metal_available",
    "metal_flash_attention_autograd",
    "metal_quantized_flash_attention_autograd",
    "metal_scaled_dot_product_attention",
    "mla_create_context",
    "mla_destroy_context",
    "mla_forward",
    "mla_init_weights",
    "mla_load_weights",
    "quantized_scaled_dot_product_attention",
    "quantized_scaled_dot_product_attention_enhanced",
    "quantized_scaled_dot_product_attention_unified",
    "quantized_scaled_dot_product_attention_with_config",
    "register_backend",
    "reset_dispatch_stats",
    "rope_scaled_dot_product_attention",
    "set_quantization_mode",
    "sparse_indexer_scores",
    "unregister_backend",
]

# mfa's kernels take bfloat16 wherever they run.
has_native_bfloat = has_native_bfloat_msl32 = is_metal_available

register_backend()

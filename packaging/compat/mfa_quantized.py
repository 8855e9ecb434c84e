"""`mfa.quantized` by another name: code that imports this one runs as it is."""

from mfa.quantized import (
    QuantizedAttention,
    QuantizedConfig,
    QuantizedFlashAttention,
    QuantizedTensor,
    quantize,
)

__all__ = [
    "QuantizedAttention",
    "QuantizedConfig",
    "QuantizedFlashAttention",
    "QuantizedTensor",
    "quantize",
]

"""Attention to keys and values that are quantised on the way, by a configuration.

`mfa.quantize` and `QuantizedTensor` are what is below it: codes that are kept, for any attention call.
`mfa.torch.quantized` has torch modules.

>>> from mfa.quantized import QuantizedAttention, QuantizedFlashAttention
"""

from mfa._quantize import quantize
from mfa._quantized_attention import QuantizedAttention
from mfa._quantized_config import QuantizedConfig
from mfa._quantized_flash_attention import QuantizedFlashAttention
from mfa._quantized_tensor import QuantizedTensor

__all__ = [
    "QuantizedAttention",
    "QuantizedConfig",
    "QuantizedFlashAttention",
    "QuantizedTensor",
    "quantize",
]

"""Layers that quantise keys and values on the way, as torch modules: for inference, and to train with.

>>> from mfa.torch.quantized import QuantizedFlashAttention, QuantizedMultiHeadAttention
"""

from mfa.torch._quantized_flash_attention import QuantizedFlashAttention
from mfa.torch._quantized_multi_head_attention import QuantizedMultiHeadAttention

__all__ = ["QuantizedFlashAttention", "QuantizedMultiHeadAttention"]

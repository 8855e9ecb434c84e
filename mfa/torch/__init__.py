"""mfa for PyTorch: gradients, and what puts it where models call attention.

The functions of `mfa` take tensors and record their gradients themselves; they are here by the same names.
"""

from mfa import (
    attention,
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_with_kvcache,
    flex_attention,
    scaled_dot_product_attention,
)
from mfa.torch import _activate
from mfa.torch import _operators as _operators  # which programs on disk call by name
from mfa.torch import _quantized_operators as _quantized_operators
from mfa.torch._counts import SdpaCounts, sdpa_counts
from mfa.torch._replace import Replacement, replace_sdpa

__all__ = [
    "Replacement",
    "SdpaCounts",
    "attention",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "flex_attention",
    "replace_sdpa",
    "scaled_dot_product_attention",
    "sdpa_counts",
]

_activate.register()

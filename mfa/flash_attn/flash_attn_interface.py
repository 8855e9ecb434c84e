"""FlashAttention-2's module of that name.

>>> from mfa.flash_attn.flash_attn_interface import flash_attn_varlen_func
"""

from mfa.flash_attn._batches import flash_attn_func, flash_attn_kvpacked_func, flash_attn_qkvpacked_func
from mfa.flash_attn._kvcache import flash_attn_with_kvcache
from mfa.flash_attn._passes import (
    _flash_attn_backward,
    _flash_attn_forward,
    _flash_attn_varlen_backward,
    _flash_attn_varlen_forward,
)
from mfa.flash_attn._varlen import (
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

# Elsewhere these are operators; here both names are the functions.
_wrapped_flash_attn_forward = _flash_attn_forward
_wrapped_flash_attn_backward = _flash_attn_backward
_wrapped_flash_attn_varlen_forward = _flash_attn_varlen_forward
_wrapped_flash_attn_varlen_backward = _flash_attn_varlen_backward

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]

"""FlashAttention-3's module of that name: code written for it runs after a change of its import.

>>> from mfa.flash_attn_interface import flash_attn_func, flash_attn_with_kvcache
"""

from mfa._flash_attn import flash_attn_func, flash_attn_qkvpacked_func
from mfa._flash_attn_combine import flash_attn_combine
from mfa._flash_attn_kvcache import flash_attn_with_kvcache
from mfa._flash_attn_varlen import flash_attn_varlen_func
from mfa._scheduler_metadata import get_scheduler_metadata

__all__ = [
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "get_scheduler_metadata",
]

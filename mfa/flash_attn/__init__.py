"""FlashAttention-2's package for torch tensors with gradients, wherever mfa runs.

Code written for ``flash_attn`` runs after a change of its import, or as it is after `install`:

>>> from mfa.flash_attn import flash_attn_func
>>> from mfa.flash_attn.bert_padding import pad_input, unpad_input
>>> from mfa.flash_attn.layers.rotary import apply_rotary_emb

`mfa.flash_attn_interface` is FlashAttention-3's.
"""

from mfa.flash_attn._install import install
from mfa.flash_attn.flash_attn_interface import (
    flash_attn_func,
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
    flash_attn_with_kvcache,
)

# The release that has these signatures, for code that compares it with what it needs.
__version__ = "2.8.4+mfa"

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "install",
]

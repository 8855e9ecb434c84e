"""FlashAttention-2's module of that name: rotary position embeddings.

>>> from mfa.flash_attn.layers.rotary import RotaryEmbedding, apply_rotary_emb
"""

from mfa.flash_attn.layers._apply_rotary import (
    ApplyRotaryEmb,
    ApplyRotaryEmbKV_,
    ApplyRotaryEmbQKV_,
    apply_rotary_emb,
    apply_rotary_emb_kv_,
    apply_rotary_emb_qkv_,
    apply_rotary_emb_torch,
    rotate_half,
)
from mfa.flash_attn.layers._rotary_embedding import RotaryEmbedding

apply_rotary_emb_func = apply_rotary_emb

__all__ = [
    "ApplyRotaryEmb",
    "ApplyRotaryEmbKV_",
    "ApplyRotaryEmbQKV_",
    "RotaryEmbedding",
    "apply_rotary_emb",
    "apply_rotary_emb_func",
    "apply_rotary_emb_kv_",
    "apply_rotary_emb_qkv_",
    "apply_rotary_emb_torch",
    "rotate_half",
]

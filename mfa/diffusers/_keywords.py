"""What Diffusers says of a call, as keywords of `mfa.attention`."""

from mfa import _keywords
from mfa._attention_keywords import DEFAULTS


def keywords_of(query, key, attn_mask, is_causal, scale, enable_gqa):
    if _keywords.flag(is_causal, "is_causal") and attn_mask is not None:
        raise ValueError("attn_mask: given together with is_causal=True, expected None")
    heads, kv_heads = query.shape[2], key.shape[2]
    if not _keywords.flag(enable_gqa, "enable_gqa") and kv_heads != heads:
        raise ValueError(f"key: {kv_heads} heads, expected {heads} as query has, or enable_gqa=True")
    if attn_mask is not None and tuple(attn_mask.shape) == (query.shape[0], key.shape[1]):
        attn_mask = attn_mask[:, None, None]  # as Diffusers' native backend understands two axes
    return DEFAULTS | {
        "causal": "top-left" if is_causal else None,
        "alignment": "top-left",
        "softmax_scale": scale,
        "mask": attn_mask,
    }

"""The entry in Diffusers' registry of attention functions."""

from diffusers.models.attention_dispatch import (
    AttentionBackendName,
    _AttentionBackendRegistry,
    _templated_context_parallel_attention,
)

from mfa import _keywords
from mfa._forward import forward
from mfa._sdpa import NAMES, draw_seed
from mfa.diffusers import _context_parallel
from mfa.diffusers._enumeration import with_member
from mfa.diffusers._keywords import keywords_of

# Only members of the enumeration are backends, and Diffusers has no way for others to add one.
BACKEND = with_member(AttentionBackendName, "MFA", "mfa")


@_AttentionBackendRegistry.register(BACKEND, supports_context_parallel=True)
def attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    return_lse=False,
    _parallel_config=None,
):
    """What Diffusers' dispatcher calls.

    Tensors are (batch, rows, heads, head_dim), the logsumexp (batch, rows, heads). A mask is bool (True =
    attend) or floating, and broadcasts to (batch, heads, rows, keys), or is (batch, keys).
    """
    if _parallel_config is not None:
        return _templated_context_parallel_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale,
            enable_gqa,
            return_lse,
            forward_op=_context_parallel.forward_op,
            backward_op=_context_parallel.backward_op,
            _parallel_config=_parallel_config,
        )
    keywords = keywords_of(query, key, attn_mask, is_causal, scale, enable_gqa)
    if _keywords.dropout_p(dropout_p):
        keywords |= {"dropout_p": dropout_p, "dropout_seed": draw_seed(query)}
    result = forward(query, key, value, keywords, names=NAMES, return_lse=return_lse)
    if not return_lse:
        return result
    out, lse = result
    return out, lse.transpose(1, 2)

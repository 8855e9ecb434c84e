"""The two passes that Diffusers' ring and Ulysses attention are made of."""

import torch
from diffusers.models.attention_dispatch import _wait_tensor

from mfa._attention_backward import attention_backward
from mfa._forward import forward
from mfa._messages import shown
from mfa._sdpa import NAMES
from mfa.diffusers._keywords import keywords_of


def forward_op(
    ctx,
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    return_lse=False,
    _save_ctx=True,
    _parallel_config=None,
):
    """Attention to a part of the keys; with `return_lse`, its logsumexp, (batch, rows, heads), too."""
    if dropout_p:
        raise ValueError(f"dropout_p: {shown(dropout_p)}, expected 0 where attention is context-parallel")
    # What other processes send may be on its way.
    query, key, value = map(_wait_tensor, (query, key, value))
    keywords = keywords_of(query, key, attn_mask, is_causal, scale, enable_gqa)
    with torch.no_grad():
        out, lse = forward(query, key, value, keywords, names=NAMES, return_lse=True)
    lse = lse.transpose(1, 2)
    if _save_ctx:
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.keywords = keywords
    return (out, lse) if return_lse else out


def backward_op(ctx, grad_out, *_, query=None, key=None, value=None, out=None, lse=None, **__):
    """Gradients of the part with these keys; `out` and `lse` are the merged ones. None is what was saved."""
    given = (query, key, value, out, lse)
    query, key, value, out, lse = (
        _wait_tensor(saved if tensor is None else tensor)
        for tensor, saved in zip(given, ctx.saved_tensors, strict=True)
    )
    with torch.no_grad():
        gradients = attention_backward(
            _wait_tensor(grad_out),
            query,
            key,
            value,
            out,
            lse.transpose(1, 2),
            wanted=("dq", "dk", "dv"),
            **ctx.keywords,
        )
    return gradients.dq, gradients.dk, gradients.dv

"""PyTorch's own flash attention operators, run by mfa.

Results have the strides that PyTorch's fake kernels promise, which compiled code relies on.
"""

import torch

from mfa._attention import attention
from mfa._attention_backward import attention_backward
from mfa._sdpa import draw_seed
from mfa.torch._autocast import ended
from mfa.torch._counts import TALLY

OPERATORS = {}  # by name, those that are the same on every device


def operator(function):
    OPERATORS[f"_{function.__name__}"] = torch.no_grad()(function)
    return function


def on_devices(names):
    """The operators of these names, as `Kernels` takes them."""
    return {(name, device): OPERATORS[name] for name in names for device in ("CPU", "MPS")}


@torch.no_grad()
def scaled_dot_product_flash_attention_for_cpu(
    query, key, value, dropout_p=0.0, is_causal=False, *, attn_mask=None, scale=None
):
    """(output, logsumexp) of what F.scaled_dot_product_attention comes to on a CPU; it has no dropout."""
    _require_no_dropout(dropout_p)
    out, logsumexp = _forward(query, key, value, _of_sdpa(is_causal, scale, 0.0, 0) | {"mask": attn_mask})
    if attn_mask is not None:
        # As PyTorch has it for rows that see no key: its backward pass, which may come to run, expects that.
        logsumexp.masked_fill_(logsumexp == -torch.inf, 0)
    return out, logsumexp.mT.contiguous().mT


@torch.no_grad()
def scaled_dot_product_flash_attention_for_cpu_backward(
    grad_out, query, key, value, out, logsumexp, dropout_p, is_causal, *, attn_mask=None, scale=None
):
    _require_no_dropout(dropout_p)
    # As if rows came first: gradients are to lie so, however query does.
    grad_out, query, key, value, out = (x.transpose(1, 2) for x in (grad_out, query, key, value, out))
    keywords = _of_sdpa(is_causal, scale, 0.0, 0) | {"mask": attn_mask, "layout": "bshd"}
    gradients = attention_backward(
        grad_out, query, key, value, out, logsumexp, wanted=("dq", "dk", "dv"), **keywords
    )
    return tuple(gradient.transpose(1, 2) for gradient in gradients[:3])


@operator
def scaled_dot_product_flash_attention(
    query, key, value, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None
):
    _require_no_debug_mask(return_debug_mask)
    seed = draw_seed(query) if dropout_p else 0
    out, logsumexp = _forward(query, key, value, _of_sdpa(is_causal, scale, dropout_p, seed))
    # Without axes, as DTensor has no place for a tensor that has some.
    unused = torch.empty((), dtype=torch.uint64, device=query.device)
    starts = (torch.empty((), dtype=torch.int32, device=query.device) for _ in range(2))
    lengths = query.shape[2], key.shape[2]
    return out, logsumexp, *starts, *lengths, _state(seed, query), unused, query.new_empty(0)


@operator
def scaled_dot_product_flash_attention_backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    philox_seed,
    philox_offset,
    *,
    scale=None,
):
    keywords = _of_sdpa(is_causal, scale, dropout_p, _seed(dropout_p, philox_seed))
    return _backward(grad_out, query, key, value, out, logsumexp, keywords)


@operator
def flash_attention_forward(
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
    seqused_k=None,
    alibi_slopes=None,
    block_table=None,
    num_splits=None,
):
    """(output, logsumexp, rng_state, unused, debug_attn_mask) of packed sequences, or of a batch of rows."""
    _require_no_debug_mask(return_debug_mask)
    seed = draw_seed(query) if dropout_p else 0
    keywords = _of_sequences(
        is_causal,
        scale,
        dropout_p,
        seed,
        window_size_left,
        window_size_right,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
    )
    keywords |= _of_cache(seqused_k, alibi_slopes, block_table)
    out, logsumexp = _forward(query, key, value, keywords)
    unused = torch.empty((), dtype=torch.uint64, device=query.device)
    return out, logsumexp, _state(seed, query), unused, query.new_empty(0)


@operator
def flash_attention_forward_no_dropout_inplace(
    out,
    query,
    key,
    value,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    return_debug_mask,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
    seqused_k=None,
    alibi_slopes=None,
    block_table=None,
    num_splits=None,
):
    """The logsumexp; the output is written to `out`."""
    _require_no_debug_mask(return_debug_mask)
    _require_no_dropout(dropout_p)
    keywords = _of_sequences(
        is_causal, scale, 0.0, 0, window_size_left, window_size_right, cum_seq_q, cum_seq_k, max_q, max_k
    )
    keywords |= _of_cache(seqused_k, alibi_slopes, block_table)
    return _forward(query, key, value, keywords, out)[1]


@operator
def flash_attention_backward(
    grad_out,
    query,
    key,
    value,
    out,
    logsumexp,
    cum_seq_q,
    cum_seq_k,
    max_q,
    max_k,
    dropout_p,
    is_causal,
    rng_state,
    unused,
    *,
    scale=None,
    window_size_left=None,
    window_size_right=None,
):
    seed = _seed(dropout_p, rng_state)
    keywords = _of_sequences(
        is_causal,
        scale,
        dropout_p,
        seed,
        window_size_left,
        window_size_right,
        cum_seq_q,
        cum_seq_k,
        max_q,
        max_k,
    )
    return _backward(grad_out, query, key, value, out, logsumexp, keywords)


def _of_sdpa(is_causal, scale, dropout_p, seed):
    return {
        "layout": "bhsd",
        "causal": "top-left" if is_causal else None,
        "softmax_scale": scale,
        "dropout_p": dropout_p,
        "dropout_seed": seed,
    }


def _of_sequences(is_causal, scale, dropout_p, seed, left, right, cum_seq_q, cum_seq_k, max_q, max_k):
    return {
        "causal": "bottom-right" if is_causal else None,
        "alignment": "bottom-right",
        "window": (-1 if left is None else left, -1 if right is None else right),
        "softmax_scale": scale,
        "dropout_p": dropout_p,
        "dropout_seed": seed,
        "cu_seqlens_q": cum_seq_q,
        "cu_seqlens_k": cum_seq_k,
        "max_seqlen_q": None if cum_seq_q is None else max_q,
        "max_seqlen_k": None if cum_seq_k is None else max_k,
    }


def _of_cache(seqused_k, alibi_slopes, block_table):
    keywords = {"seqused_k": seqused_k, "alibi_slopes": alibi_slopes, "page_table": block_table}
    if block_table is not None:  # pages lie wherever it says
        keywords |= {"cu_seqlens_k": None, "max_seqlen_k": None}
    return keywords


def _forward(query, key, value, keywords, out=None):
    TALLY.add_mfa()
    if out is None:
        out = torch.empty_like(query)
    with ended(query.device.type):  # which casts before operators that it has a rule for, and never in them
        return attention(query, key, value, out=out, return_lse=True, **keywords)


def _backward(grad_out, query, key, value, out, logsumexp, keywords):
    gradients = attention_backward(
        grad_out, query, key, value, out, logsumexp, wanted=("dq", "dk", "dv"), **keywords
    )
    return tuple(map(_lying_as, gradients[:3], (query, key, value)))


def _lying_as(tensor, like):
    """`tensor`, or a copy, with the strides of an `empty_like`."""
    promised = torch.empty_like(like)
    return tensor if tensor.stride() == promised.stride() else promised.copy_(tensor)


def _state(seed, query):
    """What a backward call is told of dropout."""
    return torch.tensor([seed, 0], dtype=torch.uint64, device=query.device)


def _seed(dropout_p, state):
    return state.tolist()[0] if dropout_p else 0


def _require_no_dropout(dropout_p):
    if dropout_p:
        raise ValueError(f"dropout_p: {dropout_p}, expected 0.0")


def _require_no_debug_mask(return_debug_mask):
    if return_debug_mask:
        raise NotImplementedError(
            "return_debug_mask: True, expected False: mfa never has all weights at once"
        )

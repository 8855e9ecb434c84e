"""FlashAttention-2's passes without autograd, as libraries call them that have a backward of their own."""

import torch

from mfa._attention_backward import attention_backward
from mfa._forward import forward
from mfa._messages import shown
from mfa._tensors import is_compiled, is_traced
from mfa.flash_attn._scoring import NAMES, no_probabilities, scoring, seed_of
from mfa.flash_attn._varlen import lists, names


def _flash_attn_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    return_softmax: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """FlashAttention-2's forward pass over whole batches.

    Parameters
    ----------
    q, k, v, dropout_p, softmax_scale, causal, softcap, alibi_slopes
        As for `flash_attn_func`.
    window_size_left, window_size_right : int
        Its `window_size`.
    return_softmax
        Accepted and ignored.

    Returns
    -------
    out : tensor (B, Nq, H, Dv)
    softmax_lse : tensor (B, H, Nq) of float32
    S_dmask : tensor (0), dtype as q
    rng_state : tensor (2) of int64
        What the backward pass needs to drop the same weights.
    """
    scores = (softmax_scale, causal, (window_size_left, window_size_right), softcap, alibi_slopes)
    return _run_forward(q, k, v, dropout_p, scores, {}, NAMES)


def _flash_attn_varlen_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    return_softmax: bool = False,
    block_table: torch.Tensor | None = None,
    leftpad_k: torch.Tensor | None = None,
    seqused_k: torch.Tensor | None = None,
    zero_tensors: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """FlashAttention-2's forward pass over packed sequences.

    Parameters
    ----------
    q, k, v, cu_seqlens_q, ..., block_table
        As for `flash_attn_varlen_func`, with `window_size` as two numbers.
    leftpad_k : tensor (B) of int32, or None, default None
        So many of a sequence's first keys are not there.
    seqused_k : tensor (B) of int32, or None, default None
        So many keys of each sequence are there, from the first one, whatever `cu_seqlens_k` has room for.
    return_softmax, zero_tensors
        Accepted and ignored: rows of no sequence are 0 always.

    Returns
    -------
    out : tensor (T, H, Dv)
    softmax_lse : tensor (H, T) of float32
    S_dmask, rng_state
        As from `_flash_attn_forward`.
    """
    where = lists(
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        block_table=block_table,
        leftpad_k=leftpad_k,
        seqused_k=seqused_k,
    )
    scores = (softmax_scale, causal, (window_size_left, window_size_right), softcap, alibi_slopes)
    return _run_forward(q, k, v, dropout_p, scores, where, names(NAMES, block_table))


def _flash_attn_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    softmax_lse: torch.Tensor,
    dq: torch.Tensor | None,
    dk: torch.Tensor | None,
    dv: torch.Tensor | None,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    deterministic: bool,
    rng_state: torch.Tensor | None = None,
) -> torch.Tensor:
    """FlashAttention-2's backward pass over whole batches.

    Parameters
    ----------
    dout : tensor (B, Nq, H, Dv)
        Gradient of `out`.
    q, k, v, dropout_p, softmax_scale, causal, window_size_left, ..., alibi_slopes
        As `_flash_attn_forward` was given them.
    out, softmax_lse
        What it returned, or of a larger call of which these keys are a part.
    dq, dk, dv : tensor, shapes as q, k and v, or None
        Where the gradients are written, in any floating dtype; None is not computed.
    deterministic
        Accepted and ignored: gradients are always deterministic.
    rng_state : tensor (2) of int64, or None, default None
        What the forward pass returned. None without dropout only.

    Returns
    -------
    softmax_d : tensor (B, H, Nq) of float32
        Sums over the rows of ``dout * out``.
    """
    scores = (softmax_scale, causal, (window_size_left, window_size_right), softcap, alibi_slopes)
    return _run_backward((dout, q, k, v, out, softmax_lse), (dq, dk, dv), dropout_p, scores, rng_state, {})


def _flash_attn_varlen_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    softmax_lse: torch.Tensor,
    dq: torch.Tensor | None,
    dk: torch.Tensor | None,
    dv: torch.Tensor | None,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float | None,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    deterministic: bool,
    rng_state: torch.Tensor | None = None,
    zero_tensors: bool = False,
) -> torch.Tensor:
    """FlashAttention-2's backward pass over packed sequences.

    Parameters
    ----------
    dout : tensor (T, H, Dv)
    cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
        As `_flash_attn_varlen_forward` was given them.
    q, k, v, ..., rng_state
        As for `_flash_attn_backward`.
    zero_tensors
        Accepted and ignored: gradients of rows of no sequence are 0 always.

    Returns
    -------
    softmax_d : tensor (H, T) of float32
    """
    where = lists(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k)
    scores = (softmax_scale, causal, (window_size_left, window_size_right), softcap, alibi_slopes)
    return _run_backward((dout, q, k, v, out, softmax_lse), (dq, dk, dv), dropout_p, scores, rng_state, where)


def _run_forward(q, k, v, dropout_p, scores, where, names):
    seed = seed_of(dropout_p, q)
    keywords = scoring(*scores, dropout_p, seed) | where
    with torch.no_grad():
        out, lse = forward(q, k, v, keywords, names=names, return_lse=True)
    if isinstance(seed, torch.Tensor):  # which a program draws anew each time it runs
        state = torch.stack([seed, torch.zeros_like(seed)])
    else:
        state = torch.tensor([seed, 0], dtype=torch.int64, device="cpu")
    return out, lse, no_probabilities(out), state


def _run_backward(tensors, results, dropout_p, scores, rng_state, where):
    seed, is_program = 0, is_compiled() or is_traced(tensors[1], None, None, {})
    if dropout_p:
        if rng_state is None:
            expected = f"what the forward pass returned, as dropout_p is {shown(dropout_p)}"
            raise ValueError(f"rng_state: None, expected {expected}")
        seed = rng_state[0] if is_program else int(rng_state[0])
    gradients_of = zip(("dq", "dk", "dv"), results, tensors[1:4], strict=True)
    wanted = {name: (result, tensor) for name, result, tensor in gradients_of if result is not None}
    for name, (result, tensor) in wanted.items():
        if result.shape != tensor.shape:
            actual, expected = (shown(tuple(each.shape)) for each in (result, tensor))
            raise ValueError(f"{name}: shape {actual}, expected {expected}")
    with torch.no_grad():
        dout, *_, out, softmax_lse = tensors
        keywords = scoring(*scores, dropout_p, seed) | where
        if is_program:
            # The operator of a program takes no array to write them into.
            softmax_d = (dout.float() * out.float()).sum(-1).transpose(-1, -2)
            delta = None
        else:
            softmax_d = delta = torch.empty_like(softmax_lse)
        gradients = attention_backward(*tensors, delta=delta, wanted=wanted, **keywords)
        for name, (result, _) in wanted.items():
            result.copy_(getattr(gradients, name))
    return softmax_d

"""FlashAttention-3's function over packed sequences, for any array."""

from typing import Any

from mfa import _keywords
from mfa._flash_attn import NAMES, scoring
from mfa._forward import forward


def flash_attn_varlen_func(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    seqused_q: Any = None,
    seqused_k: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: Any = None,
    q_descale: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    num_splits: int = 1,
    pack_gqa: bool | None = None,
    deterministic: bool = False,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """FlashAttention-3's ``flash_attn_varlen_func``: sequences of different lengths, one behind the other.

    Parameters
    ----------
    q : array (T, H, D) of float32, float16 or bfloat16
        Rows ``cu_seqlens_q[b]`` up to ``cu_seqlens_q[b + 1]`` are those of sequence b.
    k : array (Tk, Hkv, D), dtype as q
    v : array (Tk, Hkv, Dv), dtype as q
        Either may be a QuantizedTensor of 3 axes instead, as for `mfa.flash_attn_func`.
    cu_seqlens_q, cu_seqlens_k : array (B + 1) of int32
        From 0, not descending, at most T and Tk.
    max_seqlen_q, max_seqlen_k : int or None
        No sequence has more rows. It may be more than the longest has.
    seqused_q, seqused_k : array (B) of int32, or None, default None
        So many rows of each sequence are there, from the first one; None is all.
    softmax_scale, causal, qv, ..., return_attn_probs
        As for `mfa.flash_attn_func`, where Nq and Nkv are those of each sequence. `qv` is (T, H, Dv).

    Returns
    -------
    out : array (T, H, Dv)
        dtype as q; a torch tensor if q is one, else an ndarray. A row that sees no key, or is of no
        sequence, is 0.
    lse : array (H, T) of float32
        With ``return_attn_probs=True`` only.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.
    """
    for name, starts in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if starts is None:
            raise TypeError(f"{name}: None, expected an array of int32; mfa.flash_attn_func takes batches")
    return forward(
        q,
        k,
        v,
        scoring(
            softmax_scale, causal, q_descale, k_descale, v_descale, window_size, attention_chunk, softcap, qv
        )
        | {
            "cu_seqlens_q": cu_seqlens_q,
            "cu_seqlens_k": cu_seqlens_k,
            "max_seqlen_q": _keywords.unwrapped(max_seqlen_q),
            "max_seqlen_k": _keywords.unwrapped(max_seqlen_k),
            "seqused_q": seqused_q,
            "seqused_k": seqused_k,
        },
        names=NAMES,
        return_lse=_keywords.flag(return_attn_probs, "return_attn_probs"),
    )

"""FlashAttention-2's functions over whole batches."""

from typing import Any

from mfa.flash_attn._scoring import KV_PACKED, NAMES, QKV_PACKED, attend, unpacked


def flash_attn_func(
    q: Any,
    k: Any,
    v: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """FlashAttention-2's ``flash_attn_func`` on torch tensors, and on any other array that mfa takes.

    Parameters
    ----------
    q : array (B, Nq, H, D) of float32, float16 or bfloat16
    k : array (B, Nkv, Hkv, D), dtype as q
        H is a multiple of Hkv.
    v : array (B, Nkv, Hkv, Dv), dtype as q
    dropout_p : float, default 0.0
        Probability that a softmax weight becomes 0, while the others are divided by ``1 - dropout_p``; at
        least 0 and less than 1. Each call draws a seed from torch's default CPU generator, from NumPy's
        global one if q is no tensor. 0.0 draws nothing.
    softmax_scale : float or None, default None
        None is ``1 / sqrt(D)``.
    causal : bool, default False
        Row i sees keys up to ``i + Nkv - Nq``: aligned bottom-right.
    window_size : (int, int), default (-1, -1)
        (left, right): row i sees keys from ``i + Nkv - Nq - left`` to ``i + Nkv - Nq + right``, inclusive;
        -1 is unbounded.
    softcap : float, default 0.0
        Scaled scores become ``softcap * tanh(score / softcap)``. 0.0 is off.
    alibi_slopes : array (H) or (B, H) of float32, or None, default None
        ``slope * abs(i + Nkv - Nq - j)`` is taken from the score of row i and key j.
    deterministic
        Accepted and ignored: results, gradients too, are always deterministic.
    return_attn_probs : bool, default False

    Returns
    -------
    out : array (B, Nq, H, Dv)
        dtype as q; a torch tensor if q is one, else an ndarray. A row that sees no key is 0.
    lse : array (B, H, Nq) of float32
        Natural logarithm, without dropout; with ``return_attn_probs=True`` only, as what follows.
    S_dmask : array (0), dtype as q
        Always empty: the weights that FlashAttention-2 has here for its tests, with dropout, are never in
        memory.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.

    Notes
    -----
    May be called from any number of threads. Gradients of q, k and v are recorded, as `mfa.attention` says.
    The algorithm is FlashAttention-2's (Dao, 2023).
    """
    return attend(
        q,
        k,
        v,
        {},
        NAMES,
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
    )


def flash_attn_kvpacked_func(
    q: Any,
    kv: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """FlashAttention-2's ``flash_attn_kvpacked_func``: `flash_attn_func` of keys and values in one array.

    Parameters
    ----------
    q : array (B, Nq, H, D) of float32, float16 or bfloat16
    kv : array (B, Nkv, 2, Hkv, D), dtype as q
        Used where it lies; its gradient is packed likewise.
    dropout_p, softmax_scale, ..., return_attn_probs
        As for `flash_attn_func`.

    Returns
    -------
    out, lse, S_dmask
        As from `flash_attn_func`.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.
    """
    return attend(
        q,
        *unpacked(kv, "kv", 2, 2),
        {},
        KV_PACKED,
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
    )


def flash_attn_qkvpacked_func(
    qkv: Any,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """FlashAttention-2's ``flash_attn_qkvpacked_func``: `flash_attn_func` of what one array holds.

    Parameters
    ----------
    qkv : array (B, N, 3, H, D) of float32, float16 or bfloat16
        Used where it lies; its gradient is packed likewise.
    dropout_p, softmax_scale, ..., return_attn_probs
        As for `flash_attn_func`.

    Returns
    -------
    out, lse, S_dmask
        As from `flash_attn_func`.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.
    """
    return attend(
        *unpacked(qkv, "qkv", 3, 2),
        {},
        QKV_PACKED,
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
    )

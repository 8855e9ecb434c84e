"""FlashAttention-2's functions over packed sequences."""

from typing import Any

import numpy

from mfa import _keywords
from mfa._lists import INT32, int32_list
from mfa._tensors import is_compiled, is_traced
from mfa.flash_attn._scoring import KV_PACKED, NAMES, QKV_PACKED, attend, unpacked


def flash_attn_varlen_func(
    q: Any,
    k: Any,
    v: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Any = None,
) -> Any:
    """FlashAttention-2's ``flash_attn_varlen_func``: sequences of different lengths, one behind the other.

    Parameters
    ----------
    q : array (T, H, D) of float32, float16 or bfloat16
        Rows ``cu_seqlens_q[b]`` up to ``cu_seqlens_q[b + 1]`` are those of sequence b.
    k : array (Tk, Hkv, D), or (pages, page size, Hkv, D) with block_table, dtype as q
    v : array (Tk, Hkv, Dv), or (pages, page size, Hkv, Dv) with block_table, dtype as q
    cu_seqlens_q, cu_seqlens_k : array (B + 1) of int32
        From 0, not descending, at most T and Tk.
    max_seqlen_q, max_seqlen_k : int or None
        No sequence has more rows. It may be more than the longest has.
    dropout_p, softmax_scale, ..., return_attn_probs
        As for `flash_attn_func`, where Nq and Nkv are those of each sequence.
    block_table : array (B, pages of a sequence) of int32, or None, default None
        Key j of sequence b is row ``j % page_size`` of page ``block_table[b, j // page_size]``; it has as
        many as cu_seqlens_k says. Pages may have any size.

    Returns
    -------
    out : array (T, H, Dv)
        dtype as q; a torch tensor if q is one, else an ndarray. A row that sees no key, or is of no
        sequence, is 0.
    lse : array (H, T) of float32
        With ``return_attn_probs=True`` only, as what follows.
    S_dmask : array (0), dtype as q
        Always empty.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.

    Notes
    -----
    May be called from any number of threads. Gradients of q, k and v are recorded, as `mfa.attention` says.
    """
    return attend(
        q,
        k,
        v,
        lists(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, block_table=block_table),
        names(NAMES, block_table),
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
    )


def flash_attn_varlen_kvpacked_func(
    q: Any,
    kv: Any,
    cu_seqlens_q: Any,
    cu_seqlens_k: Any,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """FlashAttention-2's ``flash_attn_varlen_kvpacked_func``: keys and values of sequences in one array.

    Parameters
    ----------
    q : array (T, H, D) of float32, float16 or bfloat16
    kv : array (Tk, 2, Hkv, D), dtype as q
        Used where it lies; its gradient is packed likewise.
    cu_seqlens_q, cu_seqlens_k, ..., return_attn_probs
        As for `flash_attn_varlen_func`.

    Returns
    -------
    out, lse, S_dmask
        As from `flash_attn_varlen_func`.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.
    """
    return attend(
        q,
        *unpacked(kv, "kv", 2, 1),
        lists(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k),
        KV_PACKED,
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
    )


def flash_attn_varlen_qkvpacked_func(
    qkv: Any,
    cu_seqlens: Any,
    max_seqlen: int | None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Any = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Any:
    """FlashAttention-2's ``flash_attn_varlen_qkvpacked_func``: all of the sequences in one array.

    Parameters
    ----------
    qkv : array (T, 3, H, D) of float32, float16 or bfloat16
        Used where it lies; its gradient is packed likewise.
    cu_seqlens : array (B + 1) of int32
    max_seqlen : int or None
        Of queries and of keys.
    dropout_p, softmax_scale, ..., return_attn_probs
        As for `flash_attn_varlen_func`.

    Returns
    -------
    out, lse, S_dmask
        As from `flash_attn_varlen_func`.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.
    """
    return attend(
        *unpacked(qkv, "qkv", 3, 1),
        lists(cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, "cu_seqlens", "cu_seqlens"),
        QKV_PACKED
        | dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k"), "cu_seqlens")
        | dict.fromkeys(("max_seqlen_q", "max_seqlen_k"), "max_seqlen"),
        dropout_p=dropout_p,
        softmax_scale=softmax_scale,
        causal=causal,
        window_size=window_size,
        softcap=softcap,
        alibi_slopes=alibi_slopes,
        return_attn_probs=return_attn_probs,
    )


def lists(
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    name_q="cu_seqlens_q",
    name_k="cu_seqlens_k",
    block_table=None,
    leftpad_k=None,
    seqused_k=None,
):
    """What says where sequences are, as keywords of `mfa.attention`."""
    for name, starts in ((name_q, cu_seqlens_q), (name_k, cu_seqlens_k)):
        if starts is None:
            raise TypeError(f"{name}: None, expected an array of int32")
    if block_table is not None and seqused_k is None:
        seqused_k = lengths(cu_seqlens_k)
    return {
        "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": None if block_table is not None else cu_seqlens_k,
        "max_seqlen_q": _keywords.unwrapped(max_seqlen_q),
        "max_seqlen_k": _keywords.unwrapped(max_seqlen_k),
        "page_table": block_table,
        "leftpad_k": leftpad_k,
        "seqused_k": seqused_k,
    }


def names(names, block_table):
    """Those of arguments, where keys may be in pages and their lengths are said by `cu_seqlens_k`."""
    return names if block_table is None else names | {"page_table": "block_table"}


def lengths(cu_seqlens_k):
    """How many keys each sequence has."""
    if is_compiled() or is_traced(cu_seqlens_k, None, None, {}):
        return cu_seqlens_k.diff()
    starts = int32_list(cu_seqlens_k, "cu_seqlens_k").astype(numpy.int64)
    for place in numpy.flatnonzero(starts[:1])[:1]:
        raise ValueError(f"cu_seqlens_k[{place}]: {starts[place]}, expected 0")
    keys = numpy.diff(starts)
    for place in numpy.flatnonzero(keys < 0)[:1]:
        raise ValueError(
            f"cu_seqlens_k[{place + 1}]: {starts[place + 1]}, expected at least {starts[place]}, "
            "the number before it"
        )
    return keys.astype(INT32)

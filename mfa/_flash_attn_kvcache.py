"""FlashAttention-3's function over a cache of keys and values, for any array."""

import sys
from typing import Any

import numpy

from mfa import _keywords, _scheduler_metadata
from mfa._flash_attn import scoring
from mfa._forward import forward
from mfa._lists import INT32, int32_list
from mfa._memory import as_ndarray
from mfa._messages import shown
from mfa._tensors import is_compiled, is_tensor, is_traced

NAMES = {
    "query": "q",
    "key": "k_cache",
    "value": "v_cache",
    "k_new": "k",
    "v_new": "v",
    "seqused_k": "cache_seqlens",
    "leftpad_k": "cache_leftpad",
    "rotary_positions": "rotary_seqlens",
    "window": "window_size",
}


def flash_attn_with_kvcache(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    k: Any = None,
    v: Any = None,
    qv: Any = None,
    rotary_cos: Any = None,
    rotary_sin: Any = None,
    cache_seqlens: Any = None,
    cache_batch_idx: Any = None,
    cache_leftpad: Any = None,
    page_table: Any = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k_new: Any = None,
    max_seqlen_q: int | None = None,
    rotary_seqlens: Any = None,
    q_descale: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    scheduler_metadata: Any = None,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
    return_softmax_lse: bool = False,
) -> Any:
    """FlashAttention-3's ``flash_attn_with_kvcache``: attention to a cache, to which rows may be appended.

    Parameters
    ----------
    q : array (B, Nq, H, D), or (T, H, D) with cu_seqlens_q, of float32, float16 or bfloat16
    k_cache : array (batches, capacity, Hkv, D), or (pages, page size, Hkv, D) with page_table, dtype as q
    v_cache : array (batches, capacity, Hkv, Dv), or (pages, page size, Hkv, Dv), dtype as q
        Pages may have any size. Memory beyond the lengths is never read. Either may be a QuantizedTensor
        instead, into which rows are appended as `mfa.attention` does it, and whose products are computed
        exactly; `compute_mode` is for `mfa.attention`, which knows caches too.
    k, v : array (B, Nnew, Hkv, D or Dv), or (Tnew, Hkv, D or Dv) with cu_seqlens_k_new, or None, default None
        Written into the caches first, behind the rows that `cache_seqlens` counts. The caches must be
        writable; after an error they are as before.
    qv : array (B, Nq, H, Dv) or (T, H, Dv), dtype as q, or None, default None
        ``qv v^T`` is added to ``q k^T`` before it is scaled.
    rotary_cos, rotary_sin : array (positions, R / 2) of float32 or as q, or None, default None
        Turn the first R of the D elements of k and q; R is even and at most D. Only together with k and v.
        Row i of k is at position ``cache_seqlens[b] + i``; so is row i of q if `causal`, `window_size` or
        `attention_chunk` is set, else all of them are at ``cache_seqlens[b]``. q itself does not change.
    cache_seqlens : int, array (B) of int32, or None, default None
        Rows that are in the cache, left padding included. None is all of the cache.
    cache_batch_idx : array (B) of int32, or None, default None
        Which batch of the caches, or row of `page_table`, each sequence has. None is its own.
    cache_leftpad : array (B) of int32, or None, default None
        So many of the first rows are not there.
    page_table : array (B, pages of a sequence) of int32, or None, default None
        Row r of a sequence is row ``r % page_size`` of page ``page_table[b, r // page_size]``.
    cu_seqlens_q : array (B + 1) of int32, or None, default None
        q is packed, as in `mfa.flash_attn_varlen_func`.
    cu_seqlens_k_new : array (B + 1) of int32, or None, default None
        k and v are packed likewise. Not looked at without them.
    max_seqlen_q : int or None, default None
        With cu_seqlens_q: no sequence has more rows.
    rotary_seqlens : array (B) of int32, or None, default None
        Positions that rotary tables are read from, in place of `cache_seqlens`.
    rotary_interleaved : bool, default True
        Elements 2c and 2c + 1 are turned together, else c and ``c + R / 2``.
    scheduler_metadata : array of int32, or None, default None
        What `mfa.get_scheduler_metadata` returned for a call of these sizes. It changes nothing.
    num_splits, pack_gqa, sm_margin
        Accepted and ignored: they tune CUDA kernels and change no result.
    q_descale, k_descale, v_descale, softmax_scale, causal, window_size, attention_chunk, softcap
        As for `mfa.flash_attn_func`, where Nkv is the number of a sequence's keys, new ones included.
    return_softmax_lse : bool, default False

    Returns
    -------
    out : array (B, Nq, H, Dv) or (T, H, Dv)
        dtype as q; a torch tensor if q is one, else an ndarray. A row that sees no key is 0.
    lse : array (B, H, Nq) or (H, T) of float32
        With ``return_softmax_lse=True`` only.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`. Lengths and pages are checked before anything is written.

    Notes
    -----
    May be called from any number of threads, but for those that append to the same caches. Gradients of q and
    the caches are recorded where nothing is appended; with k and v there are none, and a tensor that requires
    one is an error but under ``torch.no_grad()``.
    """
    if scheduler_metadata is not None:
        _scheduler_metadata.require(scheduler_metadata, batch_size(q, cu_seqlens_q), q, k_cache, v_cache)
    if isinstance(cache_seqlens, (int, numpy.integer)):
        cache_seqlens = each(cache_seqlens, batch_size(q, cu_seqlens_q))
    if page_table is not None and cache_batch_idx is not None:
        page_table = _rows(page_table, cache_batch_idx)
        cache_batch_idx = None
    return forward(
        q,
        k_cache,
        v_cache,
        scoring(
            softmax_scale, causal, q_descale, k_descale, v_descale, window_size, attention_chunk, softcap, qv
        )
        | {
            "k_new": k,
            "v_new": v,
            "rotary_cos": rotary_cos,
            "rotary_sin": rotary_sin,
            "seqused_k": cache_seqlens,
            "cache_batch_idx": cache_batch_idx,
            "leftpad_k": cache_leftpad,
            "page_table": page_table,
            "cu_seqlens_q": cu_seqlens_q,
            # Engines pass it with caches that they have written themselves.
            "cu_seqlens_k_new": None if k is v is None else cu_seqlens_k_new,
            "max_seqlen_q": _keywords.unwrapped(max_seqlen_q) if cu_seqlens_q is not None else None,
            "rotary_positions": rotary_seqlens,
            "rotary_interleaved": _keywords.flag(rotary_interleaved, "rotary_interleaved"),
        },
        names=NAMES,
        return_lse=_keywords.flag(return_softmax_lse, "return_softmax_lse"),
    )


def batch_size(q, cu_seqlens_q):
    """How many sequences there are; 0 if the arrays cannot tell, which is refused later."""
    if cu_seqlens_q is not None:
        return max((*_shape(cu_seqlens_q, "cu_seqlens_q"), 0)[0] - 1, 0)
    return (*_shape(q, "q"), 0)[0]


def _shape(array, name):
    return array.shape if is_tensor(array) else as_ndarray(array, name).shape


def each(length, batch):
    """One length for all sequences."""
    length = _keywords.integer(length, "cache_seqlens", "an integer or an array of int32")
    if not 0 <= length < 2**31:
        raise ValueError(f"cache_seqlens: {shown(length)}, expected 0 or more, and at most the cache's rows")
    if is_compiled():
        torch = sys.modules["torch"]
        return torch.full((batch,), length, dtype=torch.int32)
    return numpy.full(batch, length, INT32)


def _rows(page_table, indices):
    """The rows of the page table that the sequences have."""
    if is_compiled() or is_traced(page_table, indices, None, {}):
        return page_table[indices.long()]
    table, indices = int32_list(page_table, "page_table", 2), int32_list(indices, "cache_batch_idx")
    for place in numpy.flatnonzero((indices < 0) | (indices >= len(table)))[:1]:
        raise ValueError(
            f"cache_batch_idx[{place}]: {indices[place]}, expected 0 to {len(table) - 1}, a row of page_table"
        )
    return table.take(indices, axis=0)

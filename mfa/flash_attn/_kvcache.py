"""FlashAttention-2's function over a cache of keys and values."""

from typing import Any

import numpy

from mfa import _flash_attn_kvcache as version3
from mfa import _keywords
from mfa._forward import forward
from mfa.flash_attn._scoring import scoring

NAMES = version3.NAMES | {"page_table": "block_table"}


def flash_attn_with_kvcache(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    k: Any = None,
    v: Any = None,
    rotary_cos: Any = None,
    rotary_sin: Any = None,
    cache_seqlens: Any = None,
    cache_batch_idx: Any = None,
    cache_leftpad: Any = None,
    block_table: Any = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Any = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Any:
    """FlashAttention-2's ``flash_attn_with_kvcache``: attention to a cache, to which rows may be appended.

    Parameters
    ----------
    q : array (B, Nq, H, D) of float32, float16 or bfloat16
    k_cache : array (batches, capacity, Hkv, D), or (pages, page size, Hkv, D) with block_table, dtype as q
    v_cache : array (batches, capacity, Hkv, Dv), or (pages, page size, Hkv, Dv), dtype as q
        Pages may have any size. Memory beyond the lengths is never read.
    k, v : array (B, Nnew, Hkv, D or Dv), or None, default None
        Written into the caches first, behind the rows that `cache_seqlens` counts. The caches must be
        writable; after an error they are as before.
    rotary_cos, rotary_sin : array (positions, R / 2) of float32 or as q, or None, default None
        Turn the first R of the D elements of k and q; R is even and at most D. Only together with k and v.
        Row i of k is at position ``cache_seqlens[b] + i``; so is row i of q if `causal` or `window_size` is
        set, else all of them are at ``cache_seqlens[b]``. q itself does not change.
    cache_seqlens : int, array (B) of int32, or None, default None
        Rows that are in the cache, left padding included. None is all of the cache.
    cache_batch_idx : array (B) of int32, or None, default None
        Which batch of the caches each sequence has; without block_table. None is its own.
    cache_leftpad : array (B) of int32, or None, default None
        So many of the first rows are not there.
    block_table : array (B, pages of a sequence) of int32, or None, default None
        Row r of a sequence is row ``r % page_size`` of page ``block_table[b, r // page_size]``.
    rotary_interleaved : bool, default True
        Elements 2c and 2c + 1 are turned together, else c and ``c + R / 2``.
    num_splits
        Accepted and ignored: it tunes CUDA kernels and changes no result.
    softmax_scale, causal, window_size, softcap, alibi_slopes
        As for `flash_attn_func`, where Nkv is the number of a sequence's keys, new ones included.
    return_softmax_lse : bool, default False

    Returns
    -------
    out : array (B, Nq, H, Dv)
        dtype as q; a torch tensor if q is one, else an ndarray. A row that sees no key is 0.
    lse : array (B, H, Nq) of float32
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
    if isinstance(cache_seqlens, (int, numpy.integer)):
        cache_seqlens = version3.each(cache_seqlens, version3.batch_size(q, None))
    return forward(
        q,
        k_cache,
        v_cache,
        scoring(softmax_scale, causal, window_size, softcap, alibi_slopes)
        | {
            "k_new": k,
            "v_new": v,
            "rotary_cos": rotary_cos,
            "rotary_sin": rotary_sin,
            "seqused_k": cache_seqlens,
            "cache_batch_idx": cache_batch_idx,
            "leftpad_k": cache_leftpad,
            "page_table": block_table,
            "rotary_interleaved": _keywords.flag(rotary_interleaved, "rotary_interleaved"),
        },
        names=NAMES,
        return_lse=_keywords.flag(return_softmax_lse, "return_softmax_lse"),
    )

"""FlashAttention-3's scheduler metadata, which hold here the sizes of the call that they are for."""

from typing import Any

from mfa import _keywords
from mfa._lists import INT32, int32_list
from mfa._memory import as_ndarray
from mfa._messages import shown
from mfa._quantized_tensor import shape_of
from mfa._tensors import new_array

SIZES = ("batch_size", "num_heads_q", "num_heads_kv", "headdim", "headdim_v")


def get_scheduler_metadata(
    batch_size: int,
    max_seqlen_q: int,
    max_seqlen_k: int,
    num_heads_q: int,
    num_heads_kv: int,
    headdim: int,
    cache_seqlens: Any,
    qkv_dtype: Any = "bfloat16",
    headdim_v: int | None = None,
    cu_seqlens_q: Any = None,
    cu_seqlens_k_new: Any = None,
    cache_leftpad: Any = None,
    page_size: int | None = None,
    max_seqlen_k_new: int = 0,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    has_softcap: bool = False,
    num_splits: int = 0,
    pack_gqa: bool | None = None,
    sm_margin: int = 0,
) -> Any:
    """FlashAttention-3's ``get_scheduler_metadata``, so that code which calls it runs.

    How work is shared out follows from the arguments of `mfa.flash_attn_with_kvcache` alone, so there is
    nothing to compute beforehand: the result holds sizes, which that function compares with its own.

    Parameters
    ----------
    batch_size, num_heads_q, num_heads_kv, headdim : int
        Those of the call to come.
    headdim_v : int or None, default None
        None is headdim.
    cache_seqlens : array (batch_size) of int32
    qkv_dtype : dtype, default "bfloat16"
        float32, float16 or bfloat16, as a name or a dtype of NumPy or torch.
    max_seqlen_q, max_seqlen_k, cu_seqlens_q, ..., sm_margin
        Accepted and ignored.

    Returns
    -------
    array of int32
        A torch tensor if `cache_seqlens` is one, else an ndarray. It may be copied into a longer one.

    Raises
    ------
    TypeError, ValueError
        An argument is wrong; the message names it.
    """
    sizes = (batch_size, num_heads_q, num_heads_kv, headdim, headdim if headdim_v is None else headdim_v)
    sizes = [_keywords.count(size, name) for size, name in zip(sizes, SIZES, strict=True)]
    for size, name in zip(sizes, SIZES, strict=True):
        if size >= 2**31:
            raise ValueError(f"{name}: {shown(size)}, expected at most {2**31 - 1}")
    _keywords.out_dtype(qkv_dtype, "qkv_dtype")
    lengths = int32_list(cache_seqlens, "cache_seqlens")
    if lengths.shape != (sizes[0],):
        raise ValueError(
            f"cache_seqlens: shape {shown(lengths.shape)}, expected ({sizes[0]},) as batch_size says"
        )
    metadata = new_array(cache_seqlens, (len(sizes),), INT32)
    as_ndarray(metadata, "result")[:] = sizes
    return metadata


def require(metadata, batch, q, k_cache, v_cache):
    """Refuse metadata of a call of other sizes."""
    metadata = int32_list(metadata, "scheduler_metadata")
    shapes = [shape_of(array, name) for array, name in ((q, "q"), (k_cache, "k_cache"), (v_cache, "v_cache"))]
    if len(metadata) < len(SIZES) or min(map(len, shapes)) < 2:
        raise ValueError(
            f"scheduler_metadata: shape {shown(metadata.shape)}, "
            "expected what get_scheduler_metadata returns for arrays like these"
        )
    (*_, heads, dim), (*_, kv_heads, _), (*_, value_dim) = shapes
    for actual, expected, name in zip(
        metadata, (batch, heads, kv_heads, dim, value_dim), SIZES, strict=False
    ):
        if actual != expected:
            raise ValueError(f"scheduler_metadata: for {name} {actual}, expected {expected} as the call has")

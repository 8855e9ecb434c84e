"""FlashAttention-3's functions over whole batches, for any array."""

from typing import Any

from mfa import _keywords
from mfa._attention_keywords import DEFAULTS
from mfa._forward import forward
from mfa._memory import known
from mfa._messages import shown
from mfa._tensors import is_compiled, without_classes

NAMES = {"query": "q", "key": "k", "value": "v", "window": "window_size"}
PACKED = {"query": "qkv", "key": "qkv", "value": "qkv", "window": "window_size"}


def scoring(
    softmax_scale, causal, q_descale, k_descale, v_descale, window_size, attention_chunk, softcap, qv=None
):
    """What all of FlashAttention-3's functions say of scores, as keywords of `mfa.attention`."""
    return DEFAULTS | {
        "softmax_scale": softmax_scale,
        "causal": _keywords.flag(causal, "causal"),
        "alignment": "bottom-right",
        "qv": qv,
        "q_descale": q_descale,
        "k_descale": k_descale,
        "v_descale": v_descale,
        "window": window_size,
        "attention_chunk": attention_chunk,
        "softcap": softcap,
    }


def flash_attn_func(
    q: Any,
    k: Any,
    v: Any,
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
    """FlashAttention-3's ``flash_attn_func`` on NumPy, torch and other arrays.

    Parameters
    ----------
    q : array (B, Nq, H, D) of float32, float16 or bfloat16
    k : array (B, Nkv, Hkv, D), dtype as q
        H is a multiple of Hkv.
    v : array (B, Nkv, Hkv, Dv), dtype as q
        Either may be a QuantizedTensor instead. Its products are computed exactly; `compute_mode` is for
        `mfa.attention`.
    softmax_scale : float or None, default None
        None is ``1 / sqrt(D)``, or ``1 / sqrt(D + Dv)`` with qv.
    causal : bool, default False
        Row i sees keys up to ``i + Nkv - Nq``: aligned bottom-right.
    qv : array (B, Nq, H, Dv), dtype as q, or None, default None
        ``qv v^T`` is added to ``q k^T`` before it is scaled.
    q_descale, k_descale, v_descale : array (B, Hkv) of float32, or None, default None
        What q, k and v are multiplied by, `q_descale` for all heads that share a head of k. FlashAttention-3
        does so for FP8 alone and ignores them otherwise; here they count whatever the dtype is.
    window_size : (int, int), default (-1, -1)
        (left, right): row i sees keys from ``i + Nkv - Nq - left`` to ``i + Nkv - Nq + right``, inclusive;
        -1 is unbounded.
    attention_chunk : int, default 0
        Keys are cut into chunks of so many, and row i sees only those in the chunk of key ``i + Nkv - Nq``.
        0 is off.
    softcap : float, default 0.0
        Scaled scores become ``softcap * tanh(score / softcap)``. 0.0 is off.
    num_splits, pack_gqa, deterministic, sm_margin
        Accepted and ignored: they tune CUDA kernels and change no result. Results here are always
        deterministic.
    return_attn_probs : bool, default False

    Returns
    -------
    out : array (B, Nq, H, Dv)
        dtype as q; a torch tensor if q is one, else an ndarray. A row that sees no key is 0.
    lse : array (B, H, Nq) of float32
        Natural logarithm; with ``return_attn_probs=True`` only, as in FlashAttention-3, which returns no
        probabilities either.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.

    Notes
    -----
    May be called from any number of threads. Gradients of torch tensors are recorded, as `mfa.attention`
    says.
    """
    return forward(
        q,
        k,
        v,
        scoring(
            softmax_scale, causal, q_descale, k_descale, v_descale, window_size, attention_chunk, softcap, qv
        ),
        names=NAMES,
        return_lse=_keywords.flag(return_attn_probs, "return_attn_probs"),
    )


def flash_attn_qkvpacked_func(
    qkv: Any,
    softmax_scale: float | None = None,
    causal: bool = False,
    q_descale: Any = None,
    k_descale: Any = None,
    v_descale: Any = None,
    window_size: tuple[int, int] = (-1, -1),
    attention_chunk: int = 0,
    softcap: float = 0.0,
    deterministic: bool = False,
    num_heads_q: int | None = None,
    sm_margin: int = 0,
    return_attn_probs: bool = False,
) -> Any:
    """FlashAttention-3's ``flash_attn_qkvpacked_func``: `mfa.flash_attn_func` of what one array holds.

    Parameters
    ----------
    qkv : array (B, N, 3, H, D) or (B, N, H + 2 * Hkv, D) of float32, float16 or bfloat16
        Used where it lies. With 4 axes, the heads of q come first, then those of k and of v.
    num_heads_q : int or None, default None
        H, where qkv has 4 axes; not looked at otherwise.
    softmax_scale, causal, q_descale, ..., return_attn_probs
        As for `mfa.flash_attn_func`.

    Returns
    -------
    out : array (B, N, H, D)
        dtype as qkv; a torch tensor if qkv is one, else an ndarray.
    lse : array (B, H, N) of float32
        With ``return_attn_probs=True`` only.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`.
    """
    if is_compiled():
        q, k, v = _unpacked(qkv, num_heads_q)
    else:
        q, k, v = without_classes(_unpacked, known(qkv, "qkv"), num_heads_q)
    return forward(
        q,
        k,
        v,
        scoring(
            softmax_scale, causal, q_descale, k_descale, v_descale, window_size, attention_chunk, softcap
        ),
        names=PACKED,
        return_lse=_keywords.flag(return_attn_probs, "return_attn_probs"),
    )


def _unpacked(qkv, num_heads_q):
    """Views of q, k and v."""
    if qkv.ndim == 5:
        if qkv.shape[2] != 3:
            raise ValueError(f"qkv: shape {shown(qkv.shape)}, expected (batch, rows, 3, heads, head_dim)")
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    if qkv.ndim != 4:
        raise ValueError(f"qkv: {qkv.ndim} dimensions, expected 4 or 5")
    if num_heads_q is None:
        raise ValueError("num_heads_q: None, expected the number of heads of q, as qkv has 4 dimensions")
    heads = _keywords.count(num_heads_q, "num_heads_q")
    kv_heads, odd = divmod(qkv.shape[2] - heads, 2)
    if kv_heads < 1 or odd or heads == 0:
        raise ValueError(
            f"num_heads_q: {heads}, expected to leave as many of the {qkv.shape[2]} heads for k as for v"
        )
    return qkv[:, :, :heads], qkv[:, :, heads : heads + kv_heads], qkv[:, :, heads + kv_heads :]

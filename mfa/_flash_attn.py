"""FlashAttention-3's functions, for any array."""

from typing import Any

from mfa import _keywords
from mfa._attention import DEFAULTS
from mfa._call import ForwardCall
from mfa._inputs import Inputs

NAMES = {"query": "q", "key": "k", "value": "v", "window": "window_size"}


def flash_attn_func(
    q: Any,
    k: Any,
    v: Any,
    softmax_scale: float | None = None,
    causal: bool = False,
    qv: None = None,
    q_descale: None = None,
    k_descale: None = None,
    v_descale: None = None,
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
    softmax_scale : float or None, default None
        None is ``1 / sqrt(D)``.
    causal : bool, default False
        Row i sees keys up to ``i + Nkv - Nq``: aligned bottom-right.
    qv, q_descale, k_descale, v_descale : None
        Anything else raises NotImplementedError.
    window_size : (int, int), default (-1, -1)
        (left, right): row i sees keys from ``i + Nkv - Nq - left`` to ``i + Nkv - Nq + right``, inclusive;
        -1 is unbounded.
    attention_chunk : int, default 0
        Anything but 0 raises NotImplementedError.
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
    NotImplementedError
        An argument that would change the result and is not implemented is not at its default.

    Notes
    -----
    May be called from any number of threads. Gradients are not recorded, but `mfa.attention_backward`
    computes them: a tensor that requires grad is refused unless grad mode is off.
    """
    for name, value, default in (
        ("qv", qv, None),
        ("q_descale", q_descale, None),
        ("k_descale", k_descale, None),
        ("v_descale", v_descale, None),
        ("attention_chunk", attention_chunk, 0),
    ):
        _keywords.require_default("flash_attn_func", name, value, default)
    return_attn_probs = _keywords.flag(return_attn_probs, "return_attn_probs")
    keywords = DEFAULTS | {
        "causal": _keywords.flag(causal, "causal"),
        "alignment": "bottom-right",
        "window": window_size,
        "softmax_scale": softmax_scale,
        "softcap": softcap,
    }
    inputs = Inputs(q, k, v, keywords, names=NAMES)
    return ForwardCall(inputs, return_lse=return_attn_probs).run()

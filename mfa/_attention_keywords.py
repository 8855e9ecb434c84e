"""The keywords that attention calls take alike: types, defaults, and the signatures that follow from them."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, Literal, TypedDict, TypeVar

from mfa._messages import unexpected_keyword
from mfa._sparsity import SparsityPattern


class Keywords(TypedDict, total=False):
    """What `attention`, `attention_backward` and `plan` take alike.

    Arrays are Any: NumPy's, torch's, and whatever else has the buffer protocol or DLPack.
    """

    layout: Literal["bshd", "bhsd"]
    causal: Literal["top-left", "bottom-right"] | bool | None
    alignment: Literal["top-left", "bottom-right"] | None
    window: tuple[int, int]
    softmax_scale: float | None
    softcap: float
    mask: Any
    bias: Any
    alibi_slopes: Any
    sinks: Any
    dropout_p: float
    dropout_seed: int
    dropout_offset: int
    cu_seqlens_q: Any
    cu_seqlens_k: Any
    seqused_q: Any
    seqused_k: Any
    max_seqlen_q: int | None
    max_seqlen_k: int | None
    leftpad_k: Any
    cache_batch_idx: Any
    page_table: Any
    block_mask: Any
    sparsity: SparsityPattern | None
    attention_chunk: int
    qv: Any
    q_descale: Any
    k_descale: Any
    v_descale: Any
    k_new: Any
    v_new: Any
    cu_seqlens_k_new: Any
    rotary_cos: Any
    rotary_sin: Any
    rotary_positions: Any
    rotary_interleaved: bool
    intermediate_precision: Literal["float32"] | None
    compute_mode: Literal["exact", "int8"]


DEFAULTS: Keywords = {
    "layout": "bshd",
    "causal": None,
    "alignment": None,
    "window": (-1, -1),
    "softmax_scale": None,
    "softcap": 0.0,
    "mask": None,
    "bias": None,
    "alibi_slopes": None,
    "sinks": None,
    "dropout_p": 0.0,
    "dropout_seed": 0,
    "dropout_offset": 0,
    "cu_seqlens_q": None,
    "cu_seqlens_k": None,
    "seqused_q": None,
    "seqused_k": None,
    "max_seqlen_q": None,
    "max_seqlen_k": None,
    "leftpad_k": None,
    "cache_batch_idx": None,
    "page_table": None,
    "block_mask": None,
    "sparsity": None,
    "attention_chunk": 0,
    "qv": None,
    "q_descale": None,
    "k_descale": None,
    "v_descale": None,
    "k_new": None,
    "v_new": None,
    "cu_seqlens_k_new": None,
    "rotary_cos": None,
    "rotary_sin": None,
    "rotary_positions": None,
    "rotary_interleaved": True,
    "intermediate_precision": None,
    "compute_mode": "exact",
}

HEADS_FIRST: Keywords = DEFAULTS | {"layout": "bhsd"}  # a call that asks for nothing else

# What other libraries call them, and functions here that have their signatures.
ELSEWHERE = {
    "attn_mask": "mask",
    "cache_seqlens": "seqused_k",
    "dropout": "dropout_p",
    "enable_gqa": "none, as key and value may have fewer heads anyway",
    "is_causal": "causal='top-left', which is PyTorch's",
    "return_attn_probs": "return_lse",
    "return_softmax_lse": "return_lse",
    "scale": "softmax_scale",
    "sm_scale": "softmax_scale",
    "window_size": "window",
}
OWN = ("out", "out_dtype", "return_lse", "context")

F = TypeVar("F", bound=Callable[..., Any])


def complete(keywords, function):
    """`keywords` and the defaults of those that are not given; DEFAULTS itself where none is."""
    if not keywords:
        return DEFAULTS
    for name in keywords:
        if name not in DEFAULTS:
            raise TypeError(unexpected_keyword(function, name, (*DEFAULTS, *OWN), ELSEWHERE))
    return DEFAULTS | keywords


def takes_keywords(function: F) -> F:
    """Give a function with ``**keywords: Unpack[Keywords]`` the signature that it has in effect.

    A call pays for the keywords that it gives, not for all that there are.
    """
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Keywords.__annotations__[name])
        for name, default in DEFAULTS.items()
    ]
    own = signature(function).parameters.values()
    parameters = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD] + shared
    parameters += [p for p in own if p.kind is p.KEYWORD_ONLY]
    function.__signature__ = signature(function).replace(parameters=parameters)
    returned = {"return": function.__annotations__["return"]}
    function.__annotations__ = {p.name: p.annotation for p in parameters} | returned
    return function

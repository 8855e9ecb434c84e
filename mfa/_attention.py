"""mfa.attention and mfa.plan: every keyword that a descriptor knows."""

from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from mfa import _keywords
from mfa._attention_keywords import Keywords, complete, takes_keywords
from mfa._call import BackwardCall, ForwardCall
from mfa._context import Context
from mfa._forward import forward
from mfa._inputs import Inputs
from mfa.reports import Plan

if TYPE_CHECKING:
    import numpy
    import torch
    from typing_extensions import Unpack  # in typing from Python 3.11

# What comes in as one of these goes out as the same.
Array = TypeVar("Array", "numpy.ndarray[Any, Any]", "torch.Tensor")


@overload
def attention(
    query: Array,
    key: Any,
    value: Any,
    *,
    out: None = None,
    out_dtype: Any = None,
    return_lse: Literal[False] = False,
    context: Context | None = None,
    **keywords: "Unpack[Keywords]",
) -> Array: ...


@overload
def attention(
    query: Array,
    key: Any,
    value: Any,
    *,
    out: None = None,
    out_dtype: Any = None,
    return_lse: Literal[True],
    context: Context | None = None,
    **keywords: "Unpack[Keywords]",
) -> tuple[Array, Array]: ...


@overload
def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    context: Context | None = None,
    **keywords: "Unpack[Keywords]",
) -> Any: ...


@takes_keywords
def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    context: Context | None = None,
    **keywords: "Unpack[Keywords]",
) -> Any:
    """Attention: ``softmax(softmax_scale * query key^T + ...) value``, in memory linear in the lengths.

    For query row i and key j of one head the score is ``softcap(softmax_scale * query_i . key_j)
    - alibi_slope * abs(i + offset - j) + mask``. Offset is 0 when aligned top-left and ``Nkv - Nq`` when
    aligned bottom-right. A row that sees no key gives 0, and a logsumexp of -inf.

    Arrays are NumPy's, torch's on the CPU, or anything else with the buffer protocol or DLPack on the CPU.
    They are used in place, whatever their strides; an input is copied only if its address or strides in bytes
    are not multiples of its item size, or if it is a tensor with its negative bit set. If a torch tensor
    requires grad and grad mode is on, the call is recorded: ``backward()`` computes the gradients of query,
    key, value, a floating `mask`, `bias` and `sinks`, from `out` and `lse`. Nothing else may require grad.
    `attention_backward` computes them for other arrays.

    Parameters
    ----------
    query : array (B, Nq, H, D) of float32, float16 or bfloat16
    key : array (B, Nkv, Hkv, D), dtype as query
        H is a multiple of Hkv; query head h reads key/value head ``h // (H // Hkv)``.
    value : array (B, Nkv, Hkv, Dv), dtype as query
        Either may be a QuantizedTensor instead: codes of 8 or 4 bits, read where they lie.
    layout : {"bshd", "bhsd"}, default "bshd"
        "bhsd" swaps axes 1 and 2 of query, key, value and the result.
    causal : {None, "top-left", "bottom-right"} or bool, default None
        Row i sees keys up to ``i + offset``. True means "bottom-right", False means None.
    alignment : {None, "top-left", "bottom-right"}, default None
        Where windows and ALiBi count from. None follows `causal`, and is "bottom-right" without it.
    window : (int, int), default (-1, -1)
        (left, right): row i sees keys from ``i + offset - left`` to ``i + offset + right``, inclusive; -1 is
        unbounded. See `sliding_window`.
    softmax_scale : float or None, default None
        None is ``1 / sqrt(D)``. Taken literally otherwise: 0.0 is zero, and negative numbers work.
    softcap : float, default 0.0
        Scaled scores become ``softcap * tanh(score / softcap)``. 0.0 is off.
    mask : array or None, default None
        bool (True = attend) or float32, float16 or bfloat16 (added to the scores; exactly -inf hides). At
        most 4 axes, broadcast from the right to (B, H, Nq, Nkv) whatever the layout.
    bias : array or None, default None
        Added to the scores as a floating `mask` is; for use beside a bool `mask`.
    alibi_slopes : array (H) or (B, H) of float32, or None, default None
    sinks : array (H), floating, or None, default None
        One more logit a head, in the softmax's denominator and the logsumexp only. Used as float32.
    dropout_p : float, default 0.0
        Each softmax weight becomes 0 with this probability, at least 0 and less than 1, to a 65536th; the
        others are divided by ``1 - dropout_p``. The logsumexp ignores it.
    dropout_seed, dropout_offset : int, default 0
        0 to 2**64 - 1. They name a mask: which (batch, head, row, column) is dropped follows from them alone,
        by Philox4x32-10 (Salmon et al., 2011), on every backend and for any number of threads. Layers and
        steps that share a seed are told apart by the offset.
    cu_seqlens_q : array (B + 1) of int32, or None, default None
        Queries are packed: query is (T, H, D), and sequence b has its rows ``cu_seqlens_q[b]`` up to
        ``cu_seqlens_q[b + 1]``, not included. It begins with 0, does not descend and ends at T or before. The
        result is (T, H, Dv), its logsumexp (H, T).
    cu_seqlens_k : array (B + 1) of int32, or None, default None
        Likewise of key (T, Hkv, D) and value (T, Hkv, Dv).
    seqused_q, seqused_k : array (B) of int32, or None, default None
        So many of a sequence's rows are there, of those that are packed or in its batch, from the first one.
        None is all.
    max_seqlen_q, max_seqlen_k : int or None, default None
        No sequence has more rows. `mask` and `bias` have these sizes; None is that of the longest sequence.
    leftpad_k : array (B) of int32, or None, default None
        So many of a sequence's first keys are not there, and its key 0 is the one behind them. `seqused_k`
        counts them.
    cache_batch_idx : array (B) of int32, or None, default None
        The batch of key and value that each sequence has. None is its own.
    page_table : array (B, pages of a sequence) of int32, or None, default None
        Keys and values are in pages: key is (pages, page size, Hkv, D), and key j of sequence b is row
        ``j % page_size`` of page ``page_table[b, j // page_size]``, counted from before `leftpad_k`. Entries
        that no length reaches may hold anything.
    block_mask : mfa.BlockMask, PyTorch's or None, default None
        Blocks of the scores that count, as `create_block_mask` or PyTorch's finds them; the others are hidden
        and cost nothing. What else hides keys does so besides.
    sparsity : mfa.SparsityPattern or None, default None
        In place of `causal`, `window` or `block_mask`.
    attention_chunk : int, default 0
        Keys are cut into chunks of so many, and row i sees only those in the chunk of key ``i + offset``. 0
        is off.
    qv : array (B, Nq, H, Dv), dtype as query, or None, default None
        ``qv value^T`` is added to ``query key^T``, as in multi-head latent attention. The default of
        `softmax_scale` is then ``1 / sqrt(D + Dv)``.
    q_descale, k_descale, v_descale : array (B, Hkv) of float32, or None, default None
        What query, key and value are multiplied by, for each sequence and key/value head; either axis may be
        1. `q_descale` scales all queries of the head's group.
    k_new : array (B, Nnew, Hkv, D), dtype as query, or None, default None
    v_new : array (B, Nnew, Hkv, Dv), dtype as query, or None, default None
        Written into key and value first, behind the ``seqused_k[b]`` rows of each sequence, which then has so
        many more. key and value must be writable; after an error they are as before. New rows of a
        QuantizedTensor are quantised as `quantize` does it with ``saturate=True``: with scales of their own,
        written into `scales` and `zero_points`, where `rows` is 1, and with those that are there where it is
        0; other numbers of rows are refused.
    cu_seqlens_k_new : array (B + 1) of int32, or None, default None
        New keys are packed: `k_new` is (T, Hkv, D), `v_new` (T, Hkv, Dv).
    rotary_cos, rotary_sin : array (positions, R / 2) of float32 or as query, or None, default None
        Turn the first R of the D elements of queries and new keys, by the angle in the position's row. New
        key i is at position ``seqused_k[b] + i``, and so is query i if the call is causal or has a window or
        chunks; otherwise every query is at ``seqused_k[b]``.
    rotary_positions : array (B) of int32, or None, default None
        Positions to start from, in place of `seqused_k`.
    rotary_interleaved : bool, default True
        Elements 2c and 2c + 1 are turned together, else c and ``c + R / 2``.
    intermediate_precision : {None, "float32"}, default None
        "float32" forbids rounding the softmax weights to the inputs' dtype before they multiply `value`. Sums
        are float32 always.
    compute_mode : {"exact", "int8"}, default "exact"
        How products of codes are computed: in floating point, of what they stand for; or in 8-bit integers,
        for which queries and softmax weights are rounded too, as in SageAttention (Zhang et al., 2024). For
        "int8" key and value are QuantizedTensors.
    out : array, shape as the result, or None, default None
        Written in place and returned; its dtype may differ from query's. It must be writable and overlap no
        other array. (Legacy DLPack capsules cannot say that they are read-only.)
    out_dtype : dtype or None, default None
        float32, float16 or bfloat16, as a name or a dtype of NumPy or torch. None is that of `out` or query.
    return_lse : bool, default False
    context : Context or None, default None
        None is a process-wide context with every option at "auto".

    Returns
    -------
    out : array (B, Nq, H, Dv)
        A torch tensor if query is one, else an ndarray; `out` itself if given.
    lse : array (B, H, Nq) of float32
        Natural logarithm of each row's sum of exponentials; with ``return_lse=True`` only.

    Raises
    ------
    TypeError, ValueError, BufferError
        An argument is wrong; the message names it.
    MemoryError
        Results or workspace do not fit.
    mfa.MFAError
        The backend cannot run the call (code 6), or failed (codes 3 to 5).

    Notes
    -----
    May be called from any number of threads; the GIL is released while it computes. No argument is changed
    other than `out`, whose contents after an error are undefined, and key and value where `k_new` is written
    into them.

    With lists of lengths all is said of one sequence: rows and keys count from its first ones. Rows of the
    result that belong to no sequence are 0, their logsumexp -inf; keys that belong to none are never read.

    Examples
    --------
    >>> import mfa, numpy
    >>> query = key = value = numpy.ones((1, 4, 2, 8), numpy.float32)
    >>> mfa.attention(query, key, value, causal=True).shape
    (1, 4, 2, 8)
    """
    keywords = complete(keywords, "attention")
    return forward(
        query, key, value, keywords, out=out, out_dtype=out_dtype, return_lse=return_lse, context=context
    )


@takes_keywords
def plan(
    query: Any,
    key: Any,
    value: Any,
    *,
    out: Any = None,
    out_dtype: Any = None,
    return_lse: bool = False,
    context: Context | None = None,
    backward: bool = False,
    **keywords: "Unpack[Keywords]",
) -> Plan:
    """Say how `attention` would run with the same arguments, without running it.

    Contents of the arrays do not matter and are not read, but for those of int32.

    Parameters
    ----------
    query, key, value, layout, ..., context
        As for `attention`.
    backward : bool, default False
        Say instead how `attention_backward` would run for that call: for all gradients, with `out`, or an
        array like the one that `attention` would return, as `out` and `dout`.

    Returns
    -------
    Plan
        Frozen dataclass: ``status``, ``backend``, ``fallback``, ``kernel``, ``isa``, ``tile_queries``,
        ``tile_keys``, ``key_splits``, ``num_threads``, ``workspace_bytes``, ``reason``. A call that the
        backend refuses has a ``status`` other than 0 and a ``reason``.

    Raises
    ------
    TypeError, ValueError, BufferError
        An argument is wrong, as for `attention`.
    """
    inputs = Inputs(query, key, value, complete(keywords, "plan"), planning=True)
    return_lse = _keywords.flag(return_lse, "return_lse")
    if _keywords.flag(backward, "backward"):
        call = BackwardCall(inputs, None, out, None, out_dtype=out_dtype)
    else:
        call = ForwardCall(inputs, out=out, out_dtype=out_dtype, return_lse=return_lse)
    return call.plan(context)


def sliding_window(width: int) -> tuple[int, int]:
    """The `window` in which a row sees the last `width` keys, its own included.

    Parameters
    ----------
    width : int
        1 or more.

    Returns
    -------
    (int, int)
        ``(width - 1, 0)``.
    """
    width = _keywords.integer(width, "width")
    if width < 1:
        raise ValueError(f"width: {width!r}, expected 1 or more")
    return (width - 1, 0)

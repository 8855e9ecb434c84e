"""PyTorch's flex_attention, for any array, without a compiler."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from mfa import _keywords
from mfa._call import BackwardCall, ForwardCall
from mfa._flex_call import FLOAT32, FlexCall
from mfa._gradients import Gradients
from mfa._messages import shown
from mfa._tensors import is_torch_there
from mfa._uncompiled import uncompiled
from mfa.reports import Plan


class AuxRequest(NamedTuple):
    """What `flex_attention` is to return beside its result."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """What an `AuxRequest` asked for, (B, H, Nq) of float32; None for the rest."""

    lse: Any = None
    max_scores: Any = None


@dataclass(frozen=True, slots=True)
class FlexPlan:
    """How `flex_attention` would run.

    Attributes
    ----------
    score_mod : str
        What the function was found to be: "none"; or "scale", "softcap", "causal", "window", "alibi",
        "relative" and "bias", joined by " + ", which the library does itself; or "generic", a function that
        is asked for every score.
    calls : int
        How many calls of the library it comes to.
    plan : Plan
        Of the first one.
    """

    score_mod: str
    calls: int
    plan: Plan


@uncompiled("a score_mod is a function, which no operator of a graph can be given")
def flex_attention(
    query: Any,
    key: Any,
    value: Any,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    return_lse: bool = False,
    kernel_options: Any = None,
    *,
    return_aux: Any = None,
) -> Any:
    """``torch.nn.attention.flex_attention.flex_attention`` on NumPy, torch and other arrays.

    Parameters
    ----------
    query : array (B, H, Nq, D) of float32, float16 or bfloat16
    key : array (B or 1, Hkv, Nkv, D), dtype as query
    value : array (B or 1, Hkv, Nkv, Dv), dtype as query
        Either may be a QuantizedTensor of layout "bhsd" instead, whose products are computed exactly.
    score_mod : function of (score, b, h, q_idx, kv_idx), or None, default None
        What becomes of each score. See Notes for which are fast, and `flex_plan`.
    block_mask : BlockMask of mfa or PyTorch, or None, default None
        Which scores count; the others cost nothing.
    scale : float or None, default None
        Of the products before `score_mod`. None is ``1 / sqrt(D)``.
    enable_gqa : bool, default False
        H may be a multiple of Hkv.
    return_lse : bool, default False
    kernel_options
        Accepted and ignored: they tune CUDA kernels and change no result.
    return_aux : AuxRequest of mfa or PyTorch, or None, default None
        For `max_scores` every score is computed twice.

    Returns
    -------
    out : array (B, H, Nq, Dv)
        dtype as query; a torch tensor if query is one, else an ndarray. A row that sees no key is 0.
    lse : array (B, H, Nq) of float32
        Natural logarithm, -inf for a row that sees no key; with ``return_lse=True`` only.
    aux : AuxOutput
        With `return_aux` only.

    Raises
    ------
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `mfa.attention`; ValueError also where `score_mod` raises, or uses a tensor that requires grad and
        query is no tensor.
    NotImplementedError
        Gradients are to be recorded, and `score_mod` is "generic" by `flex_plan` and NumPy's.

    Notes
    -----
    `score_mod` is called first with a stand-in for all scores and with arrays of indices, NumPy's or torch's,
    that broadcast to (B, H, Nq, Nkv). If it only scales it, bends it by ``c * tanh(score / c)``, adds to it
    what depends on indices, hides some by ``where(..., score, -inf)``, or all of these, the library does the
    same at full speed: a function of ``q_idx - kv_idx`` (ALiBi, relative biases, causal masks, windows) takes
    memory linear in the lengths, another bias is computed for some rows at a time. Any other function is
    called with arrays of scores and indices, some rows at a time, and costs what it costs.

    Of tensors gradients are recorded: of query, key and value, and of tensors that `score_mod` uses, through
    `out` and `lse`. A bias that is looked up by indices or by their difference, as a learned relative bias,
    keeps its speed; a learned factor or softcap has the function asked for every score. Of arrays of another
    kind `flex_attention_backward` computes gradients. torch.compile runs the call between two graphs, and
    torch.autocast casts query, key and value.

    May be called from any number of threads; `score_mod` is called in the one that calls.

    Examples
    --------
    >>> import mfa, numpy
    >>> query = key = value = numpy.ones((1, 2, 300, 8), numpy.float32)
    >>> def causal(b, h, q_idx, kv_idx):
    ...     return q_idx >= kv_idx
    >>> def soft(score, b, h, q_idx, kv_idx):
    ...     return 20 * numpy.tanh(score / 20)
    >>> block_mask = mfa.create_block_mask(causal, None, None, 300, 300)
    >>> mfa.flex_attention(query, key, value, soft, block_mask).shape
    (1, 2, 300, 8)
    """
    return_lse = _keywords.flag(return_lse, "return_lse")
    want_lse, want_max = return_lse, False
    if return_aux is not None:
        if return_lse:
            raise ValueError("return_lse: True, expected False beside return_aux")
        try:
            want_lse = _keywords.flag(return_aux.lse, "return_aux")
            want_max = _keywords.flag(return_aux.max_scores, "return_aux")
        except MemoryError:
            raise
        except Exception:  # whatever an attribute of the caller's raises
            raise TypeError(f"return_aux: {shown(return_aux)}, expected an AuxRequest") from None
    if kernel_options is not None and not isinstance(kernel_options, dict):
        raise TypeError(f"kernel_options: {shown(kernel_options)}, expected None or a dict")
    arguments = (query, key, value, score_mod, block_mask, scale, enable_gqa)
    if is_torch_there() and (score_mod is not None or type(query) is not numpy.ndarray):
        from mfa.torch._flex import attention

        out, lse, max_scores = attention(*arguments, want_lse, want_max)
    else:
        out, lse, max_scores = FlexCall(*arguments).forward(want_lse, want_max)
    if return_aux is not None:
        return out, AuxOutput(lse, max_scores)
    return (out, lse) if return_lse else out


def flex_attention_backward(
    dout: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    lse: Any,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    dlse: Any = None,
) -> Gradients:
    """The gradients of `flex_attention`, as `attention_backward` computes them.

    Parameters
    ----------
    dout : array, shape as out
        Gradient of `out`.
    query, key, value, score_mod, block_mask, scale, enable_gqa
        As `flex_attention` was given them; with as many batches of key and value as of query.
    out, lse : arrays
        What `flex_attention` returned with ``return_lse=True``.
    dlse : array, shape as lse, of float32, or None, default None
        Gradient of `lse`.

    Returns
    -------
    Gradients
        dq, dk and dv. What `score_mod` reads gets none. Those of codes are of query's kind and dtype.

    Raises
    ------
    NotImplementedError
        `score_mod` is "generic" by `flex_plan`, and NumPy's: one of torch's operations has a derivative.
    TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
        As `attention_backward`.
    """
    call = FlexCall(query, key, value, score_mod, block_mask, scale, enable_gqa, backward=True)
    return call.backward(dout, out, lse, dlse)


def flex_plan(
    query: Any,
    key: Any,
    value: Any,
    score_mod: Any = None,
    block_mask: Any = None,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    backward: bool = False,
) -> FlexPlan:
    """Say how `flex_attention` would run with the same arguments, without running it.

    Parameters
    ----------
    query, key, value, score_mod, block_mask, scale, enable_gqa
        As for `flex_attention`. `score_mod` is called, as it would be.
    backward : bool, default False
        Say instead how `flex_attention_backward` would run.

    Returns
    -------
    FlexPlan
    """
    backward = _keywords.flag(backward, "backward")
    call = FlexCall(query, key, value, score_mod, block_mask, scale, enable_gqa, backward)
    if call.tiles is None:
        inputs, count = call.inputs(call.arrays, planning=True), 1
    else:
        tile, count = call.tiles[0], len(call.tiles)
        shape = [part.stop - part.start for part in tile[:3]]
        bias = numpy.broadcast_to(FLOAT32.type(0), (*shape, call.shape[3]))
        inputs = call.tile_inputs(tile, call.views, bias, planning=True)
    made = BackwardCall(inputs, None, None, None) if backward else ForwardCall(inputs)
    return FlexPlan("generic" if call.form is None else call.form.name, count, made.plan())

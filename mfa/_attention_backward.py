"""mfa.attention_backward: the gradients of mfa.attention."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy

from mfa._attention_keywords import Keywords, complete, takes_keywords
from mfa._call import BackwardCall
from mfa._context import Context
from mfa._gradients import Gradients
from mfa._inputs import Inputs
from mfa._tensors import is_compiled, is_traced

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11


@takes_keywords
def attention_backward(
    dout: Any,
    query: Any,
    key: Any,
    value: Any,
    out: Any,
    lse: Any,
    *,
    delta: Any = None,
    dlse: Any = None,
    zero_clipped: bool = False,
    out_dtype: Any = None,
    context: Context | None = None,
    wanted: Iterable[Literal["dq", "dk", "dv", "dbias", "dsinks"]] | None = None,
    **keywords: "Unpack[Keywords]",
) -> Gradients:
    """The gradients of `attention`, in memory linear in the lengths.

    They come from what `attention` was given and what it returned: softmax weights are computed anew from
    query, key and `lse`. Grouped heads sum into the key/value head that they share. A row that sees no key
    has gradients 0, and so has a key that no row sees.

    Parameters
    ----------
    dout : array, shape as out, of float32, float16 or bfloat16
        Gradient of `out`.
    query, key, value : arrays, key and value perhaps QuantizedTensors
        As `attention` was given them. Gradients of codes are those of what they stand for: the
        straight-through estimator (Bengio et al., 2013).
    out : array (B, Nq, H, Dv) of float32, float16 or bfloat16, or None
        What `attention` returned. None if `delta` stands for it.
    lse : array (B, H, Nq) of float32
        What `attention` returned with ``return_lse=True``.
    layout : {"bshd", "bhsd"}, default "bshd"
        "bhsd" swaps axes 1 and 2 of dout, query, key, value, out and of their gradients.
    causal, alignment, window, softmax_scale, softcap, mask, bias, alibi_slopes, sinks
        As `attention` was given them.
    dropout_p, dropout_seed, dropout_offset
        As `attention` was given them: the same weights are dropped again.
    cu_seqlens_q, ..., page_table, attention_chunk
        As `attention` was given them. dout and out have the shape of the result then, lse that of the
        logsumexp. No two sequences may share a page or a batch of keys.
    qv, q_descale, ..., rotary_interleaved
        Expected at their defaults: there are no gradients of such calls.
    intermediate_precision : {None, "float32"}, default None
        "float32" forbids rounding weights and their gradients to the inputs' dtype before they multiply. Sums
        are float32 always.
    compute_mode : {"exact", "int8"}, default "exact"
        As `attention` was given it. Gradients are computed in floating point for either: in bfloat16 pairs,
        if the processor has them, for float16 and bfloat16 queries.
    delta : array (B, H, Nq) of float32, or None, default None
        The sums over the rows of ``dout * out``. Written, or read in place of `out` where that is None.
    dlse : array (B, H, Nq) of float32, or None, default None
        Gradient of `lse`; None is 0. It counts beside `dout` in every gradient but dv, and is no part of
        `delta`. That of a row that sees no key counts in dsinks alone, as the row's `lse` is the sink.
    zero_clipped : bool, default False
        Gradients of codes at an end of the range that `quantize` has are 0, as what they stand for may have
        been cut.
    out_dtype : dtype or None, default None
        Of the gradients: float32, float16 or bfloat16, as a name or a dtype of NumPy or torch. None is
        query's.
    context : Context or None, default None
        None is a process-wide context with every option at "auto".
    wanted : iterable of str or None, default None
        Names of the gradients to compute; the others are None and take no time. None is all that there are.

    Returns
    -------
    Gradients
        Named tuple of new arrays, each a torch tensor if what it is the gradient of is one, else an ndarray:

        dq, dk, dv
            Shapes of query, key and value; 0 in what no length reaches. Those of codes are of query's kind
            and dtype.
        dbias
            Gradient of the additive array, be it `bias` or a floating `mask`, in the shape that it was given
            in: summed over what it is broadcast along. float32 if `out_dtype` is, else of that array's dtype.
            None without one.
        dsinks
            (H) of float32; None without `sinks`.

    Raises
    ------
    TypeError, ValueError, BufferError
        An argument is wrong; the message names it. Also for a name in `wanted` whose array is not given.
    MemoryError
        Results or workspace do not fit.
    mfa.MFAError
        The backend cannot run the call (code 6), or failed (codes 3 to 5).

    Notes
    -----
    May be called from any number of threads; the GIL is released while it computes. No argument is changed,
    and none is copied that `attention` would use in place. A tensor that requires grad is refused unless grad
    mode is off. Results have the same bits on every run and for any number of threads.

    The algorithm is FlashAttention-2's (Dao, 2023), with loops over keys outside and queries inside.

    Examples
    --------
    >>> import mfa, numpy
    >>> query = key = value = numpy.ones((1, 4, 2, 8), numpy.float32)
    >>> out, lse = mfa.attention(query, key, value, return_lse=True)
    >>> gradients = mfa.attention_backward(numpy.ones_like(out), query, key, value, out, lse)
    >>> gradients.dk.shape
    (1, 4, 2, 8)
    """
    keywords = complete(keywords, "attention_backward")
    options = {
        "delta": delta,
        "dlse": dlse,
        "zero_clipped": zero_clipped,
        "out_dtype": out_dtype,
        "wanted": wanted,
    }
    if type(query) is not numpy.ndarray and (is_compiled() or is_traced(query, key, value, keywords)):
        from mfa.torch._traced import trace_backward  # torch is there

        return trace_backward(dout, query, key, value, out, lse, keywords, **options, context=context)
    return BackwardCall(Inputs(query, key, value, keywords), dout, out, lse, **options).run(context)

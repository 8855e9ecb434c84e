"""The one way from every signature to a result: through torch's autograd where that is to know of it."""

import functools

import numpy

from mfa._call import TO_RECORD, ForwardCall, attend
from mfa._inputs import Inputs
from mfa._tensors import is_cast, is_compiled, is_recorded, is_traced

NO_NAMES = {}


def forward(
    query,
    key,
    value,
    keywords,
    *,
    names=NO_NAMES,
    loose=False,
    grouped=True,
    out=None,
    out_dtype=None,
    return_lse=False,
    context=None,
):
    """Attention of arrays, or of tensors that torch records, traces or casts.

    `keywords`, `names`, `loose` and `grouped` are those of `Inputs`, the others those of `mfa.attention`.
    """
    if type(query) is not numpy.ndarray and is_compiled():
        from mfa.torch._traced import trace

        return trace(
            query,
            key,
            value,
            keywords,
            names=names,
            loose=loose,
            grouped=grouped,
            out=out,
            out_dtype=out_dtype,
            return_lse=return_lse,
            context=context,
        )
    return eager(query, key, value, keywords, names, loose, grouped, out, out_dtype, return_lse, context)


def eager(
    query,
    key,
    value,
    keywords,
    names,
    loose,
    grouped,
    out=None,
    out_dtype=None,
    return_lse=False,
    context=None,
):
    """`forward` where no compiler reads it."""
    result = attend(query, key, value, keywords, names, loose, grouped, out, out_dtype, return_lse, context)
    if result is not TO_RECORD and result is not None:
        return result
    way = _record() if result is TO_RECORD else way_of(query, key, value, keywords)
    if way is not None:
        return way(
            query,
            key,
            value,
            keywords,
            names=names,
            loose=loose,
            grouped=grouped,
            out=out,
            out_dtype=out_dtype,
            return_lse=return_lse,
            context=context,
        )
    inputs = Inputs(query, key, value, keywords, names=names, loose=loose, grouped=grouped)
    return ForwardCall(inputs, out=out, out_dtype=out_dtype, return_lse=return_lse).run(context)


def way_of(query, key, value, keywords):
    """What makes of the call what torch is to know of; None if it is to know nothing."""
    # torch is there where a tensor is, and so is mfa.torch then. Its compiler reads this, but can read no
    # more than the first question.
    if is_compiled() or is_traced(query, key, value, keywords):
        from mfa.torch._traced import trace

        return trace
    if is_cast(query):
        from mfa.torch._autocast import cast_call

        return cast_call
    if is_recorded(query, key, value, keywords):
        return _record()
    return None


@functools.cache
def _record():
    from mfa.torch._autograd import record

    return record

"""The one way from every signature to a result: through torch's autograd where that is to know of it."""

import numpy

from mfa._call import ForwardCall
from mfa._inputs import Inputs
from mfa._tensors import is_recorded

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
    """Attention of arrays, or of tensors whose gradients are recorded.

    `keywords`, `names`, `loose` and `grouped` are those of `Inputs`, the others those of `mfa.attention`.
    """
    if type(query) is not numpy.ndarray and is_recorded(query, key, value, keywords):
        from mfa.torch._autograd import record  # torch is there, as a tensor is

        return record(
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

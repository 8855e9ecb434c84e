"""Attention to quantised keys and values as torch's autograd knows it: the straight-through estimator."""

from itertools import compress

import torch

from mfa._call import BackwardCall, ForwardCall
from mfa._inputs import Inputs
from mfa._quantized_config import prepared
from mfa._quantized_tensor import QuantizedTensor
from mfa._sdpa import NAMES
from mfa.torch._autograd import (
    GRADIENTS,
    QUERY_KEY_VALUE,
    apply_last,
    four_axes,
    require_gradients,
    require_no_tangents,
    without_axes,
)


def record(query, key, value, config, keywords, *, grouped, context):
    """The result for tensors, whose gradients are recorded."""
    arrays = dict(zip(QUERY_KEY_VALUE, (query, key, value), strict=True))
    ndim = max(array.ndim for array in arrays.values())
    arrays = dict(zip(QUERY_KEY_VALUE, four_axes(*arrays.values(), grouped, NAMES), strict=True))
    arrays |= {name: array for name, array in keywords.items() if isinstance(array, torch.Tensor)}
    require_gradients(arrays, NAMES)
    require_no_tangents(arrays, NAMES)
    out = QuantizedAttention.apply(config, keywords, context, tuple(arrays), *arrays.values())
    return without_axes(out, ndim, False)


class QuantizedAttention(torch.autograd.Function):
    """The result for tensors by name, in their places in `keywords` unless they are query, key and value."""

    @staticmethod
    def forward(ctx, config, keywords, context, names, *tensors):
        given = dict(zip(names, tensors, strict=True))
        *stored, dtype = prepared(*(given.pop(name) for name in QUERY_KEY_VALUE), config, "bhsd")
        inputs = Inputs(*stored, keywords | given, names=NAMES)
        out, lse = ForwardCall(inputs, out_dtype=dtype, return_lse=True).run(context)
        # Codes are kept in place of what they are of; all else is torch's to keep.
        ctx.codes = [array if type(array) is QuantizedTensor else None for array in stored]
        kept = [array for array, codes in zip(stored, ctx.codes, strict=True) if codes is None]
        ctx.save_for_backward(out, lse, *kept, *given.values())
        ctx.call, ctx.names = (config, keywords, context), names
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return out

    @staticmethod
    def backward(ctx, dout):
        saved = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return backward(ctx, saved, dout)
        return apply_last(lambda: backward(ctx, saved, dout), dout, *saved)


def backward(ctx, saved, dout):
    """What `QuantizedAttention.backward` returns."""
    config, keywords, context = ctx.call
    out, lse, *tensors = saved
    kept = iter(tensors)
    stored = [next(kept) if codes is None else codes for codes in ctx.codes]
    inputs = Inputs(*stored, keywords | dict(zip(ctx.names[3:], kept, strict=True)))
    needed = ctx.needs_input_grad[4:]
    wanted = [GRADIENTS[name] for name in compress(ctx.names, needed)]
    gradients = gradients_of(inputs, config, ctx.dtypes, dout, out, lse, None, wanted, context)
    return *(None,) * 4, *(
        getattr(gradients, GRADIENTS[name]).to(dtype) if is_needed else None
        for name, dtype, is_needed in zip(ctx.names, ctx.dtypes, needed, strict=True)
    )


def gradients_of(inputs, config, dtypes, dout, out, lse, dlse, wanted, context=None):
    """`Gradients` of operands that were given in `dtypes`: in that, or in float32 if they have several."""
    dtype = str(dtypes[0]).removeprefix("torch.") if len(set(dtypes[:3])) == 1 else "float32"
    return BackwardCall(
        inputs,
        dout,
        out,
        lse,
        dlse=dlse,
        zero_clipped=config["zero_clipped"],
        out_dtype=dtype,
        wanted=wanted,
    ).run(context)

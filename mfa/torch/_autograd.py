"""Attention as torch's autograd knows it."""

from itertools import compress

import numpy
import torch

from mfa import _keywords
from mfa._call import BackwardCall, ForwardCall
from mfa._inputs import Inputs
from mfa._quantized_tensor import QuantizedTensor

# The operands that have gradients, as mfa.attention_backward names these.
GRADIENTS = {"query": "dq", "key": "dk", "value": "dv", "mask": "dbias", "bias": "dbias", "sinks": "dsinks"}


def record(query, key, value, keywords, *, names, loose, grouped, out, out_dtype, return_lse, context):
    """`mfa._forward.forward` for tensors of which at least one requires grad."""
    if out is not None:
        raise ValueError("out: given, expected None where gradients are recorded")
    ndim = 4
    if loose:
        ndim = max(len(array.shape) for array in (query, key, value))
        query, key, value = four_axes(query, key, value, grouped, names)
    arrays = {"query": query, "key": key, "value": value} | keywords
    tensors = {name: array for name, array in arrays.items() if isinstance(array, torch.Tensor)}
    require_gradients(tensors, names)
    call = Call(arrays | dict.fromkeys(tensors), tuple(tensors), names, out_dtype, return_lse, context)
    results = Attention.apply(call, *tensors.values())
    return without_axes(results, ndim, return_lse)


def without_axes(results, ndim, return_lse):
    """(out, lse), or out alone, with as many axes as the caller's arrays have."""
    out, lse = results if return_lse else (results, None)
    if ndim < 4:
        out = out.reshape(out.shape[4 - ndim :])
        lse = lse.reshape(lse.shape[4 - ndim :]) if return_lse else None
    return (out, lse) if return_lse else out


def require_gradients(tensors, names):
    """Refuse tensors that require a gradient that there is none of."""
    for name, tensor in tensors.items():
        if name not in GRADIENTS and tensor.requires_grad:
            shown = names.get(name, name)
            raise ValueError(
                f"{shown}: requires grad, of which there is none here; expected {shown}.detach()"
            )


class Call:
    """What a call has that autograd does not keep: all but its tensors, of which these are the names."""

    def __init__(self, others, tensors, names, out_dtype, return_lse, context):
        self.others, self.tensors = others, tensors
        self.names, self.out_dtype, self.return_lse, self.context = names, out_dtype, return_lse, context

    def arrays(self, tensors):
        return self.others | dict(zip(self.tensors, tensors, strict=True))

    def forward(self, tensors):
        """(out, lse)"""
        inputs = inputs_of(self.arrays(tensors), self.names)
        if inputs.forward_only is not None:
            name = self.names.get(inputs.forward_only, inputs.forward_only)
            raise ValueError(f"{name}: given, expected None, as there are no gradients of calls with it")
        return ForwardCall(inputs, out_dtype=self.out_dtype, return_lse=True).run(self.context)

    def backward(self, tensors, dout, out, lse, dlse, wanted):
        """`Gradients`, with those that `wanted` names."""
        return gradients_of(self.arrays(tensors), dout, out, lse, dlse, wanted, self.context)


class Attention(torch.autograd.Function):
    """out, and lse if the call is to return it, of the call's tensors."""

    @staticmethod
    def forward(ctx, call, *tensors):
        out, lse = call.forward(tensors)
        ctx.call = call
        ctx.save_for_backward(*tensors, out, lse)
        ctx.set_materialize_grads(False)
        return (out, lse) if call.return_lse else out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse=None):
        return backward(ctx, dout, dlse)


def backward(ctx, dout, dlse):
    """What `Attention.backward` returns."""
    call = ctx.call
    *tensors, out, lse = ctx.saved_tensors
    wanted = [GRADIENTS[name] for name in compress(call.tensors, ctx.needs_input_grad[1:])]
    if dout is None:
        dout = torch.zeros_like(out)
    gradients = call.backward(tensors, dout, out, lse, dlse, wanted)
    return None, *(
        getattr(gradients, GRADIENTS[name]).to(tensor.dtype) if is_needed else None
        for name, tensor, is_needed in zip(call.tensors, tensors, ctx.needs_input_grad[1:], strict=True)
    )


def inputs_of(arrays, names):
    """`Inputs` of all arrays and keywords in one."""
    keywords = dict(arrays)
    return Inputs(keywords.pop("query"), keywords.pop("key"), keywords.pop("value"), keywords, names=names)


def gradients_of(arrays, dout, out, lse, dlse, wanted, context=None):
    """`Gradients` of a call with these arrays and keywords, `dlse` not among them if None."""
    inputs = inputs_of(arrays, {})
    if dlse is None:
        return BackwardCall(inputs, dout, out, lse, wanted=wanted).run(context)
    # Of a score it is its weight times dout value^T - delta; what lse adds is its weight times dlse.
    delta = (dout.float() * out.float()).sum(-1)
    if not _keywords.heads_first(arrays["layout"]):
        delta = delta.transpose(-1, -2)
    return BackwardCall(inputs, dout, None, lse, delta=delta - dlse, wanted=wanted).run(context)


def four_axes(query, key, value, grouped, names):
    """The three with all axes, broadcast by torch, which sums the gradients of what is."""
    arrays = {"query": query, "key": key, "value": value}
    for name, array in arrays.items():
        ndim = len(array.shape)
        if not 2 <= ndim <= 4:
            raise ValueError(f"{names.get(name, name)}: {ndim} dimensions, expected 2 to 4")
    shapes = {name: (1,) * (4 - len(array.shape)) + tuple(array.shape) for name, array in arrays.items()}
    batch = common(shape[0] for shape in shapes.values())
    heads = common(shape[1] for shape in shapes.values())
    whole = []
    for name, shape in shapes.items():
        if not grouped and shape[1] not in (1, heads):
            expected = f"{heads} as query has, or enable_gqa=True"
            raise ValueError(f"{names.get(name, name)}: {shape[1]} heads, expected {expected}")
        head_count = heads if shape[1] == 1 and not grouped else shape[1]
        whole.append(broadcast(arrays[name], (batch if shape[0] == 1 else shape[0], head_count, *shape[2:])))
    return whole


def broadcast(array, shape):
    # What is quantised is for the call to broadcast, if it can be.
    if type(array) is QuantizedTensor or array.shape == shape:
        return array
    return array.expand(shape) if isinstance(array, torch.Tensor) else numpy.broadcast_to(array, shape)


def common(sizes):
    """The first that is not 1."""
    return next((size for size in sizes if size != 1), 1)

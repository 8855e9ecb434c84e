"""Attention as torch's autograd knows it."""

from itertools import compress

import torch

from mfa._call import BackwardCall, ForwardCall
from mfa._inputs import Inputs

# The operands that have gradients, as mfa.attention_backward names these.
GRADIENTS = {"query": "dq", "key": "dk", "value": "dv", "mask": "dbias", "bias": "dbias", "sinks": "dsinks"}


def record(query, key, value, keywords, *, names, loose, grouped, out, out_dtype, return_lse, context):
    """`mfa._forward.forward` for tensors of which at least one requires grad."""
    call = Call(names, out_dtype, context)
    arrays = keywords | {"query": query, "key": key, "value": value}
    for name, array in arrays.items():
        if isinstance(array, torch.Tensor) and array.requires_grad and name not in GRADIENTS:
            shown = call.name_of(name)
            raise ValueError(
                f"{shown}: requires grad, of which there is none here; expected {shown}.detach()"
            )
    if out is not None:
        raise ValueError("out: given, expected None where gradients are recorded")
    ndim = 4
    if loose:
        arrays |= four_axes(query, key, value, grouped, call)
        ndim = max(query.ndim, key.ndim, value.ndim)
    result, logsumexp = Attention.apply(call, tuple(arrays), *arrays.values())
    if ndim < 4:
        result, logsumexp = (
            result.reshape(result.shape[4 - ndim :]),
            logsumexp.reshape(logsumexp.shape[4 - ndim :]),
        )
    return (result, logsumexp) if return_lse else result


class Call:
    """What a call has that is no operand."""

    def __init__(self, names, out_dtype, context):
        self.names, self.out_dtype, self.context = names, out_dtype, context

    def name_of(self, argument):
        return self.names.get(argument, argument)


class Attention(torch.autograd.Function):
    """(result, logsumexp) of arrays by name, of which those that are tensors are torch's to keep."""

    @staticmethod
    def forward(ctx, call, names, *arrays):
        given = dict(zip(names, arrays, strict=True))
        inputs = inputs_of(given, call.names)
        if inputs.forward_only is not None:
            name = call.name_of(inputs.forward_only)
            raise ValueError(f"{name}: given, expected None, as there are no gradients of calls with it")
        result, logsumexp = ForwardCall(inputs, out_dtype=call.out_dtype, return_lse=True).run(call.context)
        ctx.call, ctx.names = call, names
        ctx.others = {name: array for name, array in given.items() if not isinstance(array, torch.Tensor)}
        ctx.save_for_backward(*(given[name] for name in names if name not in ctx.others), result, logsumexp)
        ctx.set_materialize_grads(False)
        return result, logsumexp

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, dlse):
        *tensors, result, logsumexp = ctx.saved_tensors
        kept = iter(tensors)
        given = {name: ctx.others[name] if name in ctx.others else next(kept) for name in ctx.names}
        needed = list(compress(ctx.names, ctx.needs_input_grad[2:]))
        if dout is None:
            dout = torch.zeros_like(result)
        gradients = BackwardCall(
            inputs_of(given, {}), dout, result, logsumexp, wanted=[GRADIENTS[name] for name in needed]
        ).run(ctx.call.context)
        computed = {}
        for name in needed:
            gradient = getattr(gradients, GRADIENTS[name])
            computed[name] = gradient.to(given[name].dtype)
        return None, None, *(computed.get(name) for name in ctx.names)


def inputs_of(arrays, names):
    keywords = dict(arrays)
    return Inputs(keywords.pop("query"), keywords.pop("key"), keywords.pop("value"), keywords, names=names)


def four_axes(query, key, value, grouped, call):
    """The three with all axes, broadcast by torch, which sums the gradients of what is."""
    arrays = {"query": query, "key": key, "value": value}
    for name, array in arrays.items():
        if not 2 <= array.ndim <= 4:
            raise ValueError(f"{call.name_of(name)}: {array.ndim} dimensions, expected 2 to 4")
    whole = {name: array[(None,) * (4 - array.ndim)] for name, array in arrays.items()}
    batch = common(array.shape[0] for array in whole.values())
    heads = common(array.shape[1] for array in whole.values())
    for name, array in whole.items():
        shape = list(array.shape)
        shape[0] = batch if shape[0] == 1 else shape[0]
        if not grouped:
            shape[1] = heads if shape[1] == 1 else shape[1]
            if shape[1] != heads:
                expected = f"{heads} as query has, or enable_gqa=True"
                raise ValueError(f"{call.name_of(name)}: {shape[1]} heads, expected {expected}")
        whole[name] = array.expand(shape)
    return whole


def common(sizes):
    """The first that is not 1."""
    return next((size for size in sizes if size != 1), 1)

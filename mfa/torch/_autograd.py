"""Attention as torch's autograd knows it."""

from itertools import compress
from typing import Any

import numpy
import torch

from mfa._attention_keywords import Keywords
from mfa._call import BackwardCall, ForwardCall, attend
from mfa._inputs import Inputs
from mfa._memory import are_plain_tensors
from mfa._quantized_tensor import QuantizedTensor
from mfa._sdpa import PLAIN
from mfa._tensors import require_no_tangent

QUERY_KEY_VALUE = ("query", "key", "value")
# The operands that have gradients, as mfa.attention_backward names these.
GRADIENTS = {"query": "dq", "key": "dk", "value": "dv", "mask": "dbias", "bias": "dbias", "sinks": "dsinks"}
# What is_grads_batched of torch.autograd.grad has on; torch.vmap is a transform.
VMAP_MODE = torch._C._parse_dispatch_key("VmapMode")
# Of which the gradient may have another dtype.
CONVERTED = ("sinks",)
# The keywords that are arrays.
ARRAYS = tuple(
    name for name, kind in Keywords.__annotations__.items() if kind is Any and name != "block_mask"
)


def record(query, key, value, keywords, *, names, loose, grouped, out, out_dtype, return_lse, context):
    """`mfa._forward.forward` for tensors of which at least one requires grad."""
    if out is not None:
        raise ValueError("out: given, expected None where gradients are recorded")
    ndim = 4
    does_fit = not loose or fit(query, key, value, grouped)
    if does_fit and keywords is PLAIN and are_plain_tensors(query, key, value) and not has_tangents():
        # The usual call, with as few objects as it takes.
        call = Call(key, value, PLAIN, QUERY_KEY_VALUE, names, out_dtype, return_lse, context)
        return apply(call, query, key, value)
    if not does_fit:
        ndim = max(len(array.shape) for array in (query, key, value))
        query, key, value = four_axes(query, key, value, grouped, names)
    others = keywords
    tensors = {"query": query, "key": key, "value": value}
    given = None if keywords is PLAIN else tensors_of(keywords)
    if given:
        require_gradients(given, names)
        tensors |= given
        others = keywords | dict.fromkeys(given)
    if not (isinstance(key, torch.Tensor) and isinstance(value, torch.Tensor)):
        tensors = {name: array for name, array in tensors.items() if isinstance(array, torch.Tensor)}
    require_no_tangents(tensors, names)
    call = Call(key, value, others, tuple(tensors), names, out_dtype, return_lse, context)
    results = apply(call, *tensors.values())
    return results if ndim == 4 else without_axes(results, ndim, return_lse)


def tensors_of(keywords):
    return {
        name: keywords[name]
        for name in ARRAYS
        if keywords[name] is not None and isinstance(keywords[name], torch.Tensor)
    }


def without_axes(results, ndim, return_lse):
    """(out, lse), or out alone, without the leading axes that the caller's arrays lack."""
    if not return_lse:
        return results.reshape(results.shape[4 - ndim :])
    return tuple(one.reshape(one.shape[4 - ndim :]) for one in results)


def require_gradients(tensors, names):
    """Refuse tensors that require a gradient that there is none of."""
    for name, tensor in tensors.items():
        if name not in GRADIENTS and tensor.requires_grad:
            shown = names.get(name, name)
            raise ValueError(
                f"{shown}: requires grad, of which there is none here; expected {shown}.detach()"
            )


class Call:
    """What a call has that autograd does not keep: all but its tensors, of which `tensors` are the names."""

    __slots__ = ("context", "names", "others", "out_dtype", "return_lse", "tensors", "unsaved")

    def __init__(self, key, value, others, tensors, names, out_dtype, return_lse, context):
        self.others, self.tensors = others, tensors
        self.names, self.out_dtype, self.return_lse, self.context = names, out_dtype, return_lse, context
        # key and value, should they be no tensors.
        self.unsaved = None
        if tensors is not QUERY_KEY_VALUE and tensors[:3] != QUERY_KEY_VALUE:
            self.unsaved = tuple(None if isinstance(x, torch.Tensor) else x for x in (key, value))

    def given(self, tensors):
        """query, key, value and keywords, with the tensors back in their places."""
        if self.tensors == QUERY_KEY_VALUE:
            return *tensors, self.others
        given = dict(zip(self.tensors, tensors, strict=True))
        key, value = self.unsaved or (None, None)
        query, key, value = given.pop("query"), given.pop("key", key), given.pop("value", value)
        return query, key, value, self.others | given

    def inputs(self, tensors, names):
        return Inputs(*self.given(tensors), names=names)

    def forward(self, tensors):
        """(out, lse)"""
        if self.others is PLAIN and self.tensors == QUERY_KEY_VALUE:
            # The usual call, by the way that takes the least time.
            return attend(
                *tensors, PLAIN, self.names, False, True, None, self.out_dtype, True, self.context, True
            )
        inputs = self.inputs(tensors, self.names)
        if inputs.forward_only is not None:
            name = self.names.get(inputs.forward_only, inputs.forward_only)
            raise ValueError(f"{name}: given, expected None, as there are no gradients of calls with it")
        return ForwardCall(inputs, out_dtype=self.out_dtype, return_lse=True).run(self.context)

    def backward(self, tensors, dout, out, lse, dlse, wanted):
        """`Gradients`, with those that `wanted` names."""
        if are_batched():
            from mfa.torch._traced import trace_backward  # which is made of this module

            query, key, value, keywords = self.given(tensors)
            options = {"delta": None, "zero_clipped": False, "out_dtype": None, "context": self.context}
            return trace_backward(
                dout, query, key, value, out, lse, keywords, dlse=dlse, wanted=wanted, **options
            )
        call = BackwardCall(self.inputs(tensors, {}), dout, out, lse, dlse=dlse, wanted=wanted)
        return call.run(self.context)


def are_batched():
    """Whether tensors may stand for several, each of which has a backward pass of its own.

    torch.vmap or is_grads_batched=True is around then. Torch calls operators once for each.
    """
    return torch._C._are_functorch_transforms_active() or torch._C._dispatch_tls_is_dispatch_key_included(
        VMAP_MODE
    )


class Attention(torch.autograd.Function):
    """out, and lse if the call is to return it, of the call's tensors."""

    @staticmethod
    def forward(ctx, call, *tensors):
        out, lse = call.forward(tensors)
        ctx.call = call
        ctx.save_for_backward(*tensors, out, lse)
        if not call.return_lse:
            return out
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse=None):
        saved = ctx.saved_tensors
        # The operator refuses second derivatives itself.
        if not torch.is_grad_enabled() or are_batched():
            return backward(ctx, saved, dout, dlse)
        return apply_last(lambda: backward(ctx, saved, dout, dlse), dout, dlse, *saved)


class LastDerivative(torch.autograd.Function):
    """What `compute` returns for some tensors, of which there are no gradients."""

    @staticmethod
    def forward(ctx, compute, *tensors):
        return compute()

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            "query: a second derivative of attention is asked for, expected the first alone; "
            "create_graph=True is for what comes before or behind it"
        )


def backward(ctx, saved, dout, dlse):
    """What `Attention.backward` returns."""
    call, (_, *needed) = ctx.call, ctx.needs_input_grad
    *tensors, out, lse = saved
    wanted = [GRADIENTS[name] for name in compress(call.tensors, needed)]
    if dout is None:
        dout = torch.zeros_like(out)
    gradients = call.backward(tensors, dout, out, lse, dlse, wanted)
    results = [None]
    for name, tensor, is_needed in zip(call.tensors, tensors, needed, strict=True):
        gradient = getattr(gradients, GRADIENTS[name]) if is_needed else None
        results.append(gradient.to(tensor.dtype) if name in CONVERTED and is_needed else gradient)
    return tuple(results)


def has_tangents():
    """Whether tensors may have some: outside of all levels there is none, and asking a tensor is slow."""
    return torch.autograd.forward_ad._current_level >= 0


def require_no_tangents(tensors, names):
    """Refuse what forward-mode autograd would have a gradient of."""
    if not has_tangents():
        return
    for argument, tensor in tensors.items():
        if isinstance(tensor, torch.Tensor):
            require_no_tangent(tensor, names.get(argument, argument))


# The C functions themselves: what Python puts before them is for other kinds of Function.
apply = super(torch.autograd.Function, Attention).apply
apply_last = super(torch.autograd.Function, LastDerivative).apply


def fit(query, key, value, grouped):
    """Whether they have all axes, of sizes that go together."""
    first, second, third = query.shape, key.shape, value.shape
    if first == second == third:
        return len(first) == 4
    return (
        len(first) == len(second) == len(third) == 4
        and first[0] == second[0] == third[0]
        and (grouped or first[1] == second[1] == third[1])
    )


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

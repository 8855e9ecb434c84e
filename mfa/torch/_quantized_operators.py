"""Attention that quantises keys and values, as operators of torch's dispatcher."""

import ast
import functools

import torch

from mfa._call import ForwardCall
from mfa._gradients import Gradients
from mfa._quantized_config import ARRAYS, OWN, prepared
from mfa._sdpa import NAMES
from mfa.torch import _vmap
from mfa.torch._autocast import autocast
from mfa.torch._autograd import (
    LastDerivative,
    four_axes,
    require_gradients,
    require_no_tangents,
    without_axes,
)
from mfa.torch._kernels import describe_backward, inputs_of, row_shape, rows
from mfa.torch._library import LIBRARY, OPERATORS, TAGS
from mfa.torch._operator_autograd import (
    AttentionOperator,
    OperatorCall,
    apply,
    are_recorded,
    below_autograd,
    recorded_below,
)
from mfa.torch._operators import register
from mfa.torch._quantized_autograd import gradients_of
from mfa.torch._schema import ARRAY, QUERY_KEY_VALUE, SCORES, Signature
from mfa.torch._traced import arguments_of, tensor

# What a configuration says: `config` is a literal of all that is no tensor.
QUANTISING = {
    "compute_mode": 'str compute_mode="exact"',
    **dict.fromkeys(ARRAYS, ARRAY),
    "config": 'str config=""',
}
FORWARD = Signature("quantized_attention", QUERY_KEY_VALUE | SCORES | QUANTISING, "(Tensor out, Tensor lse)")
BACKWARD = Signature(
    "quantized_attention_backward",
    {"dout": "Tensor dout"}
    | QUERY_KEY_VALUE
    | {"out": "Tensor out", "lse": "Tensor lse", "dlse": "Tensor? dlse", "wanted": "str wanted"}
    | SCORES
    | QUANTISING,
    "(Tensor dq, Tensor dk, Tensor dv, Tensor dbias, Tensor dsinks)",
)
for signature in (FORWARD, BACKWARD):
    LIBRARY.define(signature.schema, tags=TAGS)
quantized_attention = OPERATORS.quantized_attention.default
quantized_attention_backward = OPERATORS.quantized_attention_backward.default


@functools.lru_cache
def literal(text):
    return ast.literal_eval(text or "{}")


def taken_apart(given):
    """The configuration, `Inputs`, and the name of the result's dtype, of what an operator was given."""
    arrays = {name: given.pop(name, None) for name in ARRAYS}
    config = OWN | literal(given.pop("config", ""))
    config |= {name: array for name, array in arrays.items() if array is not None}
    *stored, dtype = prepared(*(given[name] for name in QUERY_KEY_VALUE), config, "bhsd")
    return config, inputs_of(given | dict(zip(QUERY_KEY_VALUE, stored, strict=True))), dtype


@torch.no_grad()
def compute(*arguments):
    _, inputs, dtype = taken_apart(FORWARD.given(arguments))
    return ForwardCall(inputs, out_dtype=dtype, return_lse=True).run()


@torch.no_grad()
def compute_backward(*arguments):
    """Keys and values are quantised again, to the same codes."""
    given = BACKWARD.given(arguments)
    dout, out, lse, dlse = (given.pop(name) for name in ("dout", "out", "lse", "dlse"))
    wanted = given.pop("wanted").split()
    operands = [given[name] for name in QUERY_KEY_VALUE]
    mask, bias = given.get("mask"), given.get("bias")
    dtypes = [None if array is None else array.dtype for array in (*operands, mask if bias is None else bias)]
    config, inputs, _ = taken_apart(given)
    gradients = gradients_of(inputs, config, dtypes, dout, out, lse, dlse, wanted)
    return tuple(
        out.new_empty(0) if gradient is None else gradient.to(dtype)
        for gradient, dtype in zip(gradients, (*dtypes, torch.float32), strict=True)
    )


def describe(*arguments):
    given = FORWARD.given(arguments)
    query, value = given["query"], given["value"]
    precision = literal(given.get("config", "")).get("output_precision")
    dtype = query.dtype if precision is None else getattr(torch, precision)
    lse = query.new_empty(row_shape(given, query.shape[:-1]), dtype=torch.float32)
    return rows(given, (*query.shape[:-1], value.shape[-1]), dtype), lse


class QuantizedOperatorCall(OperatorCall):
    """A call whose passes are these operators."""

    def forward(self, tensors):
        return recorded_below(quantized_attention, self.keyset, self.given(tensors).values())

    def backward(self, tensors, dout, out, lse, dlse, wanted):
        operands = [*self.given(tensors).values()]
        arguments = dout, *operands[:3], out, lse, dlse, " ".join(wanted), *operands[3:]
        return Gradients(*quantized_attention_backward(*arguments))


def record(keyset, *arguments):
    given = FORWARD.given(arguments)
    require_no_tangents(given, {})
    if not are_recorded(arguments):
        return below_autograd(quantized_attention, keyset, arguments)
    call = QuantizedOperatorCall(keyset, given)
    tensors = [given[name] for name in call.tensors]
    require_gradients(dict(zip(call.tensors, tensors, strict=True)), {})
    return apply(AttentionOperator, call, *tensors)


def record_backward(keyset, *arguments):
    require_no_tangents(BACKWARD.given(arguments), {})
    if not are_recorded(arguments):
        return below_autograd(quantized_attention_backward, keyset, arguments)
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return apply(
        LastDerivative, lambda: recorded_below(quantized_attention_backward, keyset, arguments), *tensors
    )


def each(operator):
    return lambda info, in_dims, *arguments: _vmap.each(operator, info, in_dims, arguments)


register(quantized_attention, compute, describe, record, each(quantized_attention))
register(
    quantized_attention_backward,
    compute_backward,
    describe_backward,
    record_backward,
    each(quantized_attention_backward),
)
for device_type, dispatch_key in (("cpu", "AutocastCPU"), ("mps", "AutocastMPS")):
    kernel = autocast(device_type, dispatch_key, quantized_attention, FORWARD)
    LIBRARY.impl(quantized_attention._schema.name, kernel, dispatch_key)


def trace(query, key, value, literal, arrays, keywords, *, grouped, context):
    """`QuantizedFlashAttention.attend` by an operator."""
    if context is not None:
        raise TypeError("device: given, expected 'auto' where torch traces or transforms the call")
    query, key, value = (
        tensor(array, name) for name, array in (("query", query), ("key", key), ("value", value))
    )
    ndim = max(query.ndim, key.ndim, value.ndim)
    query, key, value = four_axes(query, key, value, grouped, NAMES)
    arguments = arguments_of(keywords, NAMES)
    for name, array in arrays.items():
        arguments[name] = tensor(array, name)
    unknown = [name for name in arguments if name not in FORWARD.names]
    if unknown:
        raise TypeError(f"{unknown[0]}: given, expected None where torch traces or transforms the call")
    out, _ = quantized_attention(query, key, value, config=literal, **arguments)
    return without_axes(out, ndim, False)

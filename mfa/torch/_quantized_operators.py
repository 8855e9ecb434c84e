"""Attention that quantises keys and values, as operators of torch's dispatcher."""

import ast
import functools
from itertools import compress

import torch

from mfa._call import ForwardCall
from mfa._gradients import Gradients
from mfa._quantized_config import ARRAYS, OWN, as_precise, prepared, rounded
from mfa._sdpa import NAMES
from mfa.torch import _vmap
from mfa.torch._autocast import autocast
from mfa.torch._autograd import (
    GRADIENTS,
    LastDerivative,
    four_axes,
    require_gradients,
    require_no_tangents,
    without_axes,
)
from mfa.torch._kernels import describe_gradients, inputs_of, row_shape, rows
from mfa.torch._library import LIBRARY, OPERATORS, TAGS
from mfa.torch._operator_autograd import (
    OperatorCall,
    apply,
    are_recorded,
    below_autograd,
    recorded_below,
)
from mfa.torch._operators import register
from mfa.torch._quantized_autograd import gradients_of
from mfa.torch._quantized_codes import PARTS, described, parts_of, whole
from mfa.torch._schema import (
    APPENDED_ARRAYS,
    ARRAY,
    FORWARD_ONLY,
    QUERY_KEY_VALUE,
    SCORES,
    Signature,
)
from mfa.torch._traced import arguments_of, interrupted, obstacle_to, tensor

# What a configuration says: `config` is a literal of all that is no tensor.
CONFIGURED = {"compute_mode": 'str compute_mode="exact"', "config": 'str config=""'}
CODES = {f"{name}_{part}": f"Tensor {name}_{part}" for name in ("key", "value") for part in PARTS}
FORWARD = Signature(
    "quantized_attention",
    QUERY_KEY_VALUE | SCORES | CONFIGURED | dict.fromkeys(ARRAYS, ARRAY),
    f"(Tensor out, Tensor lse, {', '.join(CODES.values())})",
)
# Of what is quantised there are codes in place of itself.
BACKWARD = Signature(
    "quantized_attention_backward",
    {"dout": "Tensor dout", "query": "Tensor query", "key": "Tensor? key", "value": "Tensor? value"}
    | {"key_dtype": "ScalarType key_dtype", "value_dtype": "ScalarType value_dtype"}
    | CODES
    | {"out": "Tensor out", "lse": "Tensor lse", "dlse": "Tensor? dlse", "wanted": "str wanted"}
    | SCORES
    | CONFIGURED,
    "(Tensor dq, Tensor dk, Tensor dv, Tensor dbias, Tensor dsinks)",
)
for signature in (FORWARD, BACKWARD):
    LIBRARY.define(signature.schema, tags=TAGS)
quantized_attention = OPERATORS.quantized_attention.default
quantized_attention_backward = OPERATORS.quantized_attention_backward.default


@functools.lru_cache
def literal(text):
    return ast.literal_eval(text or "{}")


def config_of(given):
    """The configuration, whose parts are taken from what an operator was given."""
    arrays = {name: given.pop(name, None) for name in ARRAYS}
    said = OWN | literal(given.pop("config", ""))
    return said | {name: array for name, array in arrays.items() if array is not None}


@torch.no_grad()
def compute(*arguments):
    given = FORWARD.given(arguments)
    config = config_of(given)
    query, key, value = (given[name] for name in QUERY_KEY_VALUE)
    *stored, dtype = prepared(query, key, value, config, "bhsd")
    inputs = inputs_of(given | dict(zip(QUERY_KEY_VALUE, stored, strict=True)))
    results = ForwardCall(inputs, out_dtype=dtype, return_lse=True).run()
    return *results, *parts_of(stored[1], key), *parts_of(stored[2], value)


@torch.no_grad()
def compute_backward(*arguments):
    given = BACKWARD.given(arguments)
    config = config_of(given)
    dout, out, lse, dlse = (given.pop(name) for name in ("dout", "out", "lse", "dlse"))
    wanted = given.pop("wanted").split()
    mask, bias = given.get("mask"), given.get("bias")
    additive = mask if bias is None else bias
    dtypes = [given["query"].dtype, given.pop("key_dtype"), given.pop("value_dtype")]
    given["query"] = rounded(given["query"], config)
    for name, columns in (("key", given["query"].shape[-1]), ("value", dout.shape[-1])):
        codes = whole([given.pop(f"{name}_{part}") for part in PARTS], name, config, columns)
        given[name] = as_precise(given[name], name, config) if codes is None else codes
    gradients = gradients_of(inputs_of(given), config, dtypes, dout, out, lse, dlse, wanted)
    return tuple(
        out.new_empty(0) if gradient is None else gradient.to(dtype)
        for gradient, dtype in zip(
            gradients, (*dtypes, None if additive is None else additive.dtype, torch.float32), strict=True
        )
    )


def describe(*arguments):
    given = FORWARD.given(arguments)
    query, key, value = (given[name] for name in QUERY_KEY_VALUE)
    config = config_of(given)
    precision = config["output_precision"]
    dtype = query.dtype if precision is None else getattr(torch, precision)
    lse = query.new_empty(row_shape(given, query.shape[:-1]), dtype=torch.float32)
    out = rows(given, (*query.shape[:-1], value.shape[-1]), dtype)
    return out, lse, *described(key, "key", config), *described(value, "value", config)


def describe_quantized_backward(*arguments):
    given = BACKWARD.given(arguments)
    query, dout = given["query"], given["dout"]
    for name, columns in (("key", query.shape[-1]), ("value", dout.shape[-1])):
        if given[name] is None:
            shape = (*given[f"{name}_codes"].shape[:-1], columns)
            given[name] = query.new_empty(shape, dtype=given[f"{name}_dtype"])
    return describe_gradients(given)


class QuantizedAttentionOperator(torch.autograd.Function):
    """out, lse and codes of a call's tensors, whose backward pass may be traced in its turn."""

    @staticmethod
    def forward(ctx, call, *tensors):
        given = call.others | dict(zip(call.tensors, tensors, strict=True))
        out, lse, *codes = recorded_below(quantized_attention, call.keyset, given.values())
        # Codes are kept in place of what they are of.
        kept = [
            None if name in ("key", "value") and codes[len(PARTS) * (name == "value")].numel() else tensor
            for name, tensor in zip(call.tensors, tensors, strict=True)
        ]
        ctx.call, ctx.dtypes = call, [tensor.dtype for tensor in tensors]
        ctx.save_for_backward(out, lse, *codes, *kept)
        ctx.mark_non_differentiable(*codes)
        ctx.set_materialize_grads(False)
        return out, lse, *codes

    @staticmethod
    def backward(ctx, dout, dlse, *_):
        call = ctx.call
        out, lse, *saved = ctx.saved_tensors
        codes, tensors = saved[: len(CODES)], saved[len(CODES) :]
        given = call.others | dict(zip(call.tensors, tensors, strict=True))
        for name in ARRAYS:
            given.pop(name, None)
        query, key, value = (given.pop(name) for name in QUERY_KEY_VALUE)
        dtypes = dict(zip(call.tensors, ctx.dtypes, strict=True))
        needed = ctx.needs_input_grad[1:]
        wanted = " ".join(dict.fromkeys(GRADIENTS[name] for name in compress(call.tensors, needed)))
        gradients = quantized_attention_backward(
            torch.zeros_like(out) if dout is None else dout,
            *(query, key, value, dtypes["key"], dtypes["value"], *codes, out, lse, dlse, wanted),
            *given.values(),
        )
        gradients = Gradients(*gradients)._asdict()
        return None, *(
            gradients[GRADIENTS[name]].to(dtypes[name]) if is_needed else None
            for name, is_needed in zip(call.tensors, needed, strict=True)
        )


def record(keyset, *arguments):
    given = FORWARD.given(arguments)
    require_no_tangents(given, {})
    if not are_recorded(arguments):
        return below_autograd(quantized_attention, keyset, arguments)
    call = OperatorCall(keyset, given)
    tensors = [given[name] for name in call.tensors]
    require_gradients(dict(zip(call.tensors, tensors, strict=True)), {})
    return apply(QuantizedAttentionOperator, call, *tensors)


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
    describe_quantized_backward,
    record_backward,
    each(quantized_attention_backward),
)
for device_type, dispatch_key in (("cpu", "AutocastCPU"), ("mps", "AutocastMPS")):
    kernel = autocast(device_type, dispatch_key, quantized_attention, FORWARD)
    LIBRARY.impl(quantized_attention._schema.name, kernel, dispatch_key)


def trace(layer, query, key, value, keywords, *, grouped, recorded):
    """`QuantizedFlashAttention.attend` by an operator."""
    given = {"query": query, "key": key, "value": value} | keywords
    obstacle = obstacle_to(given, ("block_mask", *FORWARD_ONLY, *APPENDED_ARRAYS))
    if layer.context is not None:
        obstacle = "device", f"{layer.device!r}, expected 'auto'"
    if obstacle is not None:
        options = {"grouped": grouped, "recorded": recorded}
        return interrupted(layer.attend, NAMES, obstacle, (query, key, value, keywords), options)
    query, key, value = (tensor(given[name], name) for name in QUERY_KEY_VALUE)
    ndim = max(query.ndim, key.ndim, value.ndim)
    query, key, value = four_axes(query, key, value, grouped, NAMES)
    arguments = arguments_of(keywords, NAMES)
    arguments.pop("rotary_interleaved", None)
    for name, array in layer.arrays.items():
        arguments[name] = tensor(array, name)
    out = quantized_attention(query, key, value, config=layer.literal, **arguments)[0]
    return without_axes(out, ndim, False)

"""What operators compute, and what they would return."""

import torch

from mfa._attention_keywords import DEFAULTS
from mfa._call import BackwardCall, ForwardCall
from mfa._gradients import Gradients
from mfa._inputs import Inputs
from mfa.torch._schema import BACKWARD


def inputs_of(given):
    """`Inputs` of what an operator was given."""
    query, key, value, drawn = (given.pop(name, None) for name in ("query", "key", "value", "drawn_seed"))
    keywords = DEFAULTS | given
    for name in ("dropout_seed", "dropout_offset"):
        keywords[name] %= 2**64
    if drawn is not None:
        keywords["dropout_seed"] = int(drawn)
    return Inputs(query, key, value, keywords)


def computed(signature):
    """The kernel of an operator that computes attention."""

    @torch.no_grad()
    def compute(*arguments):
        given = signature.given(arguments)
        out_dtype = given.pop("out_dtype", None)
        return ForwardCall(inputs_of(given), out_dtype=out_dtype, return_lse=True).run()

    return compute


@torch.no_grad()
def compute_backward(*arguments):
    given = BACKWARD.given(arguments)
    dout, out, lse, dlse = (given.pop(name) for name in ("dout", "out", "lse", "dlse"))
    wanted = given.pop("wanted").split()
    gradients = BackwardCall(inputs_of(given), dout, out, lse, dlse=dlse, wanted=wanted).run()
    return tuple(out.new_empty(0) if gradient is None else gradient for gradient in gradients)


# Without memory: what the calls return, to the stride.


def describe(signature):
    def fake(*arguments):
        given = signature.given(arguments)
        query, value = given["query"], given["value"]
        dtype = given.get("out_dtype") or query.dtype
        shape = (*query.shape[:-1], value.shape[-1])
        lse = query.new_empty(row_shape(given, query.shape[:-1]), dtype=torch.float32)
        return rows(given, shape, dtype), lse

    return fake


def describe_backward(*arguments):
    return describe_gradients(BACKWARD.given(arguments))


def describe_gradients(given):
    mask, bias, sinks = (given.get(name) for name in ("mask", "bias", "sinks"))
    additive = mask if bias is None else bias
    made = {
        "dq": lambda: rows(given, given["query"].shape, given["query"].dtype),
        "dk": lambda: rows(given, given["key"].shape, given["key"].dtype),
        "dv": lambda: rows(given, given["value"].shape, given["value"].dtype),
        "dbias": lambda: additive.new_empty(additive.shape),
        "dsinks": lambda: sinks.new_empty(sinks.shape, dtype=torch.float32),
    }
    return tuple(
        made[name]() if name in given["wanted"].split() else given["out"].new_empty(0)
        for name in Gradients._fields
    )


def row_shape(given, shape):
    """That of a number for each row, from the one of rows in the caller's order."""
    if given.get("layout") == "bhsd":
        return tuple(shape)
    *batch, rows, heads = shape
    return (*batch, heads, rows)


def rows(given, shape, dtype):
    """A new tensor that lies as query does: see `new_array` in mfa/_tensors.py."""
    query = given["query"]
    if given.get("layout") == "bhsd" and is_rows_first(query):
        *batch, heads, count, dim = shape
        return query.new_empty((*batch, count, heads, dim), dtype=dtype).transpose(-3, -2)
    return query.new_empty(tuple(shape), dtype=dtype)


def is_rows_first(query):
    """Whether heads of a tensor with heads first lie inside of rows; an axis of 1 has no stride."""
    heads, count = query.shape[-3:-1]
    strides = query.stride()
    return (strides[-3] if heads > 1 else 0) < (strides[-2] if count > 1 else 0)

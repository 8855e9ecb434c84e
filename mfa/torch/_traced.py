"""Calls that torch traces or transforms become calls of operators."""

import numpy
import torch

from mfa import _keywords
from mfa._attention_keywords import DEFAULTS
from mfa._messages import kind
from mfa._sparsity import with_sparsity
from mfa.torch._autograd import four_axes, without_axes
from mfa.torch._operators import attention, attention_append
from mfa.torch._schema import APPENDED_ARRAYS

DTYPES = {code: getattr(torch, name) for name, code in _keywords.PRECISIONS.items()}


def aligned(causal, _):
    return ("bottom-right" if causal else None) if isinstance(causal, _keywords.BOOLS) else causal


def same(check):
    """What `check` accepts, as it is."""

    def checked(given, _):
        check(given)
        return given

    return checked


def signed(given, name):
    """A word as schemas have integers."""
    number = _keywords.word(given, name)
    return number - 2**64 if number >= 2**63 else number


# Of keywords that are no arrays: what the call makes of them, named as the caller names them.
OPTIONS = {
    "layout": same(_keywords.heads_first),
    "causal": aligned,
    "alignment": lambda given, _: given,
    "window": lambda given, name: list(_keywords.window(given, name)),
    "softmax_scale": _keywords.real,
    "softcap": lambda given, _: _keywords.softcap(given),
    "dropout_p": lambda given, _: _keywords.dropout_p(given),
    "dropout_seed": signed,
    "dropout_offset": signed,
    "max_seqlen_q": _keywords.count,
    "max_seqlen_k": _keywords.count,
    "attention_chunk": _keywords.count,
    "rotary_interleaved": _keywords.flag,
    "intermediate_precision": same(_keywords.intermediate_precision),
    "compute_mode": same(_keywords.compute_mode),
}


def trace(query, key, value, keywords, *, names, loose, grouped, out, out_dtype, return_lse, context):
    """`mfa._forward.forward` by an operator."""
    for name, given in (("out", out), ("context", context), ("block_mask", keywords["block_mask"])):
        if given is not None:
            raise TypeError(f"{name}: given, expected None where torch traces or transforms the call")
    query, key, value = (
        tensor(array, names.get(name, name))
        for name, array in (("query", query), ("key", key), ("value", value))
    )
    ndim = 4
    if loose:
        ndim = max(query.ndim, key.ndim, value.ndim)
        query, key, value = four_axes(query, key, value, grouped, names)
    if keywords["sparsity"] is not None:
        keywords = with_sparsity(keywords)
    arguments = arguments_of(keywords, names)
    if arguments.pop("compute_mode", "exact") != "exact":
        raise ValueError("compute_mode: 'int8', expected 'exact', or a QuantizedTensor as key")
    if out_dtype is not None:
        arguments["out_dtype"] = DTYPES[_keywords.out_dtype(out_dtype)]
    operator = attention_append
    if not any(name in arguments for name in APPENDED_ARRAYS):
        operator = attention
        arguments.pop("rotary_interleaved", None)
    out, lse = operator(query, key, value, **arguments)
    return without_axes((out, lse) if return_lse else out, ndim, return_lse)


def arguments_of(keywords, names):
    """What an operator is given for keywords: those that are not at their defaults."""
    _keywords.causal_alignment(keywords["causal"], keywords["alignment"])
    arguments = {}
    for name, given in keywords.items():
        if given is None or given is DEFAULTS[name]:
            continue
        argument = names.get(name, name)
        if name == "dropout_seed" and isinstance(given, torch.Tensor):
            arguments["drawn_seed"] = given
        else:
            arguments[name] = OPTIONS.get(name, tensor)(given, argument)
    return arguments


def tensor(array, name):
    if isinstance(array, torch.Tensor):
        return array
    if isinstance(array, numpy.ndarray):
        return torch.tensor(array)
    raise TypeError(f"{name}: {kind(array)}, expected a tensor where torch traces or transforms the call")

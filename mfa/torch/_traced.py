"""Calls that torch traces or transforms become calls of operators."""

import numpy
import torch
from torch._subclasses.fake_tensor import FakeTensor

from mfa import _keywords
from mfa._attention_backward import attention_backward
from mfa._attention_keywords import DEFAULTS
from mfa._forward import forward
from mfa._gradients import Gradients
from mfa._messages import kind
from mfa._sparsity import SparsityPattern, with_sparsity
from mfa._tensors import has_no_memory, is_compiled
from mfa.torch import _operators as operators
from mfa.torch._autograd import ARRAYS, QUERY_KEY_VALUE, four_axes, without_axes
from mfa.torch._schema import APPENDED, APPENDED_ARRAYS, FORWARD_ONLY

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
    given = {"query": query, "key": key, "value": value, "out": out, "context": context} | keywords
    obstacle = obstacle_to(given, ("out", "context", "block_mask"))
    if obstacle is not None:
        options = {"names": names, "loose": loose, "grouped": grouped, "out": out, "out_dtype": out_dtype}
        options |= {"return_lse": return_lse, "context": context}
        return interrupted(forward, names, obstacle, (query, key, value, keywords), options)
    ndim = 4
    query, key, value = (tensor(given[name], name) for name in QUERY_KEY_VALUE)
    if loose:
        ndim = max(query.ndim, key.ndim, value.ndim)
        query, key, value = four_axes(query, key, value, grouped, names)
    arguments = arguments_of(keywords, names)
    require_exact(arguments)
    require_alike({"query": query, "key": key, "value": value} | arguments, names)
    if out_dtype is not None:
        arguments["out_dtype"] = DTYPES[_keywords.out_dtype(out_dtype)]
    operator = operators.attention_append
    if not any(name in arguments for name in APPENDED_ARRAYS):
        operator = operators.attention
        arguments.pop("rotary_interleaved", None)
    out, lse = operator(query, key, value, **arguments)
    results = (out, lse) if return_lse else out
    return results if ndim == 4 else without_axes(results, ndim, return_lse)


def trace_backward(dout, query, key, value, out, lse, keywords, *, dlse, wanted, **options):
    """`mfa.attention_backward` by an operator."""
    given = {"query": query, "key": key, "value": value} | keywords | options
    given["zero_clipped"] = options["zero_clipped"] or None
    obstacle = obstacle_to(given, ("delta", "zero_clipped", "out_dtype", "context", "block_mask"))
    if obstacle is not None:
        options |= keywords | {"dlse": dlse, "wanted": wanted}
        return interrupted(attention_backward, {}, obstacle, (dout, query, key, value, out, lse), options)
    arguments = arguments_of(keywords, {})
    require_exact(arguments)
    for name in (*FORWARD_ONLY, *APPENDED):
        if arguments.pop(name, None) is not None:
            raise ValueError(f"{name}: given, expected None, as there are no gradients of calls with it")
    mask = arguments.get("mask")
    there = {
        "dbias": "bias" in arguments or (mask is not None and mask.is_floating_point()),
        "dsinks": "sinks" in arguments,
    }
    names = _keywords.wanted(wanted)
    if names is None:
        names = [name for name in Gradients._fields if there.get(name, True)]
    for name, is_there in there.items():
        if not is_there and name in names:
            raise ValueError(f"wanted: {name!r}, expected the array that it is the gradient of")
    operands = {"dout": dout, "query": query, "key": key, "value": value, "out": out, "lse": lse}
    operands = {name: tensor(array, name) for name, array in operands.items()}
    require_alike(operands | {"dlse": dlse} | arguments, {})
    results = operators.attention_backward(*operands.values(), dlse, " ".join(names), **arguments)
    gradients = zip(Gradients._fields, results, strict=True)
    return Gradients(*(gradient if name in names else None for name, gradient in gradients))


def interrupted(function, names, obstacle, arguments, options):
    """The call itself, for which torch.compile interrupts its program; there is no other that could."""
    if is_compiled():
        return untraced(function, arguments, options)
    name, found = obstacle
    raise TypeError(f"{names.get(name, name)}: {found} where torch traces or transforms the call")


@torch.compiler.disable(reason="mfa: context, block_mask, out and what is no tensor are for no program")
def untraced(function, arguments, options):
    return function(*arguments, **options)


def arguments_of(keywords, names):
    """What an operator is given for keywords: those that are not at their defaults."""
    if keywords["sparsity"] is not None:
        keywords = with_sparsity(keywords)
    _keywords.causal_alignment(keywords["causal"], keywords["alignment"])
    arguments = {}
    for name, given in keywords.items():
        if given is None or name == "sparsity" or given is DEFAULTS[name]:
            continue
        if name == "dropout_seed" and isinstance(given, torch.Tensor):
            arguments["drawn_seed"] = given
        elif name in OPTIONS:
            arguments[name] = OPTIONS[name](given, names.get(name, name))
        else:
            arguments[name] = tensor(given, name)
    return arguments


def obstacle_to(given, untraced):
    """(name, what it should be) of what no program can have of what a call is given; None if it can have all.

    `untraced` names what only None can be traced of.
    """
    for name in (*QUERY_KEY_VALUE, *ARRAYS):
        if given[name] is not None and not isinstance(given[name], (torch.Tensor, numpy.ndarray)):
            return name, f"{kind(given[name])}, expected a tensor"
    sparsity = given["sparsity"]
    if isinstance(sparsity, SparsityPattern) and "block_mask" in sparsity.keywords:
        return "sparsity", f"{sparsity.name}, expected another"
    for name in untraced:
        if given[name] is not None:
            return name, "given, expected None"
    return None


def require_alike(arguments, names):
    """Refuse fake tensors beside real ones where no mode makes these fake, too."""
    if is_compiled():  # which makes all of them fake
        return
    tensors = {name: given for name, given in arguments.items() if isinstance(given, torch.Tensor)}
    fake = next((name for name, given in tensors.items() if isinstance(given, FakeTensor)), None)
    if fake is None or tensors[fake].fake_mode.allow_non_fake_inputs:
        return
    for name, given in tensors.items():
        if type(given) in (torch.Tensor, torch.nn.Parameter) and not has_no_memory(torch, given):
            raise TypeError(
                f"{names.get(fake, fake)}: a tensor without memory, expected one with memory "
                f"as {names.get(name, name)} has"
            )


def require_exact(arguments):
    """Take compute_mode away, which is for operands that are quantised."""
    if arguments.pop("compute_mode", "exact") != "exact":
        raise ValueError("compute_mode: 'int8', expected 'exact', or a QuantizedTensor as key")


def tensor(array, name):
    if isinstance(array, torch.Tensor):
        return array
    try:
        return torch.as_tensor(array, device="cpu")
    except TypeError:  # as of NumPy's bfloat16
        found = f"{kind(array)}, expected a tensor"
        raise TypeError(f"{name}: {found} where torch traces or transforms the call") from None

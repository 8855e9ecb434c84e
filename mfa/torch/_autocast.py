"""What torch.autocast makes of attention: what it makes of PyTorch's own."""

import contextlib

import torch

from mfa._forward import forward
from mfa.torch._library import attention
from mfa.torch._schema import APPENDED_ARRAYS, FORWARD

# A call into a cache is none of these: the cache is where it is, in the dtype that it has.
CAST = ("query", "key", "value", "qv")


def cast_call(query, key, value, keywords, **options):
    """`mfa._forward.forward` of what autocast makes of the operands."""
    device_type = query.device.type
    operands = {"query": query, "key": key, "value": value, "qv": keywords["qv"]}
    if not any(keywords[name] is not None for name in APPENDED_ARRAYS):
        operands = cast_operands(operands, device_type)
    keywords = keywords | {"qv": operands.pop("qv")}
    with torch.autocast(device_type, enabled=False):
        return forward(*operands.values(), keywords, **options)


def ended(device_type):
    """A with statement's context for operands that are to stay what they are."""
    is_on = torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if is_on else contextlib.nullcontext()


def cast_operands(operands, device_type):
    """{name: array} in the dtype that autocast has there."""
    dtype = torch.get_autocast_dtype(device_type)
    return {name: cast(array, device_type, dtype) for name, array in operands.items()}


def cast(array, device_type, dtype):
    is_cast = (
        isinstance(array, torch.Tensor)
        and array.device.type == device_type
        and array.is_floating_point()
        and array.dtype not in (torch.float64, dtype)
    )
    return array.to(dtype) if is_cast else array


def autocast(device_type, key, operator=attention, signature=FORWARD):
    """The kernel of an operator for that key."""
    keyset = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def call(*arguments):
        given = signature.given(arguments)
        given |= cast_operands({name: given[name] for name in CAST if name in given}, device_type)
        with torch._C._ExcludeDispatchKeyGuard(keyset):
            return operator(*given.values())

    return call

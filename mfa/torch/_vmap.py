"""Operators under torch.vmap: a call for each example."""

import torch

from mfa.torch._library import attention, attention_append, attention_backward
from mfa.torch._schema import APPEND


def each(operator, info, in_dims, arguments):
    """(results, where they have the axis of examples)"""
    count = info.batch_size
    # Without an example there is none to ask what results look like.
    examples = [example(arguments, in_dims, number) for number in range(count)] or [
        absent(arguments, in_dims)
    ]
    results = zip(*(operator(*one) for one in examples), strict=True)
    return tuple(torch.stack(one)[:count] for one in results), (0,) * len(operator._schema.returns)


def example(arguments, in_dims, number):
    return [
        argument.select(dim, number) if isinstance(dim, int) else argument
        for argument, dim in zip(arguments, in_dims, strict=True)
    ]


def absent(arguments, in_dims):
    return [
        argument.new_zeros(argument.movedim(dim, 0).shape[1:]) if isinstance(dim, int) else argument
        for argument, dim in zip(arguments, in_dims, strict=True)
    ]


def forward(info, in_dims, *arguments):
    return each(attention, info, in_dims, arguments)


def backward(info, in_dims, *arguments):
    return each(attention_backward, info, in_dims, arguments)


def append(info, in_dims, *arguments):
    for name, dim in zip(APPEND.names[1:3], in_dims[1:3], strict=True):
        if dim is None:
            raise ValueError(f"{name}: the same for all that torch.vmap maps over, expected one for each")
    return each(attention_append, info, in_dims, arguments)

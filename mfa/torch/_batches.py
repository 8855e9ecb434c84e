"""Tensors of more than four axes, of which autograd or a program is to know."""

import itertools

import torch

from mfa._forward import forward
from mfa._messages import shown
from mfa._sdpa import NAMES
from mfa.torch._autograd import common


def each_batch(query, key, value, grouped, keywords):
    """One call for each index of the axes before the last four, with the dropout that other arrays have."""
    arrays = {"query": query, "key": key, "value": value}
    for name, array in arrays.items():
        if array.ndim < 2:
            raise ValueError(f"{name}: {array.ndim} dimensions, expected at least 2")
    ndim = max(array.ndim for array in arrays.values())
    query, key, value = (array[(None,) * (ndim - array.ndim)] for array in arrays.values())
    shapes = [tuple(array.shape[:-3]) for array in (query, key, value)]
    try:
        leading = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ValueError(
            f"query, key, value: leading axes {', '.join(map(shown, shapes))}, expected some that broadcast"
        ) from None
    query, key, value = (array.expand(*leading, *array.shape[-3:]) for array in (query, key, value))
    heads = query.shape[-3] if grouped else common(array.shape[-3] for array in (query, key, value))
    mask = keywords["mask"]
    if mask is not None:
        shape, mask = tuple(mask.shape), mask[(None,) * (ndim - mask.ndim)]
        try:
            mask = mask.expand(*leading, *mask.shape[-3:])
        except RuntimeError:
            expected = shown((*leading, heads, query.shape[-2], key.shape[-2]))
            raise ValueError(
                f"attn_mask: shape {shown(shape)}, expected one that broadcasts to {expected}"
            ) from None
    outer = leading[:-1]
    results = []
    for number, index in enumerate(itertools.product(*map(range, outer))):
        each = keywords | {"mask": None if mask is None else mask[index], "dropout_offset": number}
        results.append(
            forward(query[index], key[index], value[index], each, names=NAMES, loose=True, grouped=grouped)
        )
    if not results:  # of no elements, but of the history that others would have
        empty = query[..., :1] + 0 * (key.sum() + value.sum())
        return empty.expand(*leading, heads, query.shape[-2], value.shape[-1])
    return torch.stack(results).reshape(*outer, *results[0].shape)

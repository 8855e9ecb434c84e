"""Attention to quantised keys and values as torch's autograd knows it. Nothing here imports torch."""

import functools
import itertools
import sys

from mfa._call import BackwardCall, ForwardCall
from mfa._inputs import Inputs
from mfa._quantized_config import prepared, rounded
from mfa._sdpa import NAMES
from mfa._tensors import is_tensor


def attention_with_gradients(query, key, value, config, keywords, *, grouped, context):
    """The result for torch tensors, whose ``backward()`` computes gradients with respect to all three."""
    mask = keywords["mask"]
    if is_tensor(mask) and mask.requires_grad:
        raise ValueError(
            "attn_mask: requires grad, which only query, key and value can; expected its detach()"
        )
    arrays = {"query": query, "key": key, "value": value}
    for name, array in arrays.items():
        if not 2 <= array.ndim <= 4:
            raise ValueError(f"{name}: {array.ndim} dimensions, expected 2 to 4")
    ndim = max(array.ndim for array in arrays.values())
    # What is broadcast here has its gradient summed by torch.
    whole = [array.reshape((1,) * (4 - array.ndim) + tuple(array.shape)) for array in arrays.values()]
    batch = _common(array.shape[0] for array in whole)
    heads = whole[0].shape[1] if grouped else _common(array.shape[1] for array in whole)
    for i, array in enumerate(whole):
        shape = list(array.shape)
        shape[0] = batch if shape[0] == 1 else shape[0]
        if not grouped and shape[1] == 1:
            shape[1] = heads
        whole[i] = array.expand(shape)
    if not grouped:
        for name, array in zip(arrays, whole, strict=True):
            if array.shape[1] != heads:
                raise ValueError(
                    f"{name}: {array.shape[1]} heads, expected {heads} as query has, or enable_gqa=True"
                )
    out = _function(sys.modules["torch"]).apply(*whole, config, keywords, context)
    return out.reshape(out.shape[4 - ndim :])


def _common(sizes):
    """The first that is not 1."""
    return next((size for size in sizes if size != 1), 1)


@functools.cache
def _function(torch):
    class QuantizedAttentionFunction(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query, key, value, config, keywords, context):
            stored, *operands, dtype = prepared(query, key, value, config, "bhsd")
            inputs = Inputs(stored, *operands, keywords, names=NAMES)
            out, lse = ForwardCall(inputs, out_dtype=dtype, return_lse=True).run(context)
            # Codes are kept in place of what they are of; what is not quantised is torch's to keep.
            ctx.codes = [None if is_tensor(operand) else operand for operand in operands]
            ctx.save_for_backward(query, out, lse, *filter(is_tensor, operands))
            ctx.dtypes = query.dtype, key.dtype, value.dtype
            ctx.call = config, keywords, context
            return out

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, dout):
            config, keywords, context = ctx.call
            query, out, lse, *tensors = ctx.saved_tensors
            operands = [tensors.pop(0) if codes is None else codes for codes in ctx.codes]
            gradients = BackwardCall(
                Inputs(rounded(query, config), *operands, keywords),
                dout,
                out,
                lse,
                zero_clipped=config["zero_clipped"],
                out_dtype=ctx.dtypes[0] if len(set(ctx.dtypes)) == 1 else "float32",
                wanted=itertools.compress(("dq", "dk", "dv"), ctx.needs_input_grad),
            ).run(context)
            return (
                *(
                    None if x is None else x.to(dtype)
                    for x, dtype in zip(gradients, ctx.dtypes, strict=False)
                ),
                *(None, None, None),
            )

    return QuantizedAttentionFunction

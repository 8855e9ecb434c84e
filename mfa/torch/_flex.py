"""flex_attention of tensors: gradients are recorded, of what a score_mod uses too."""

import torch

from mfa._flex_call import OF_INPUTS, FlexCall
from mfa._score_tiles import Tile
from mfa._tensors import is_cast, is_recorded
from mfa.torch._autograd import apply_last, are_batched
from mfa.torch._captures import Captures, Substituted
from mfa.torch._learned_biases import biases_of, traced

ONE_PAIR = Tile(*[slice(0, 1)] * 4)


def attention(query, key, value, score_mod, block_mask, scale, enable_gqa, want_lse, want_max):
    """(out, lse or None, max_scores or None) where tensors may be among the arrays, or behind score_mod."""
    captures = Captures()
    options = (score_mod, block_mask, scale, enable_gqa)
    if not isinstance(query, torch.Tensor):
        call = FlexCall(query, key, value, *options, watch=captures)
        if captures.tensors and torch.is_grad_enabled():
            raise ValueError(
                "score_mod: uses a tensor that requires grad, and gradients are recorded of tensors only; "
                "expected its detach(), or a tensor as query"
            )
        return call.forward(want_lse, want_max)
    arrays = (query, key, value)
    if is_cast(query):
        from mfa.torch._autocast import cast_operands

        arrays = cast_operands(dict(enumerate(arrays)), query.device.type).values()
    if not torch.is_grad_enabled():
        return FlexCall(*arrays, *options).forward(want_lse, want_max)
    with torch._C.DisableTorchFunctionSubclass():
        arrays = expanded(*arrays)
    with torch.no_grad():  # what requires grad is looked at here, not computed with
        call = FlexCall(*arrays, *options, watch=captures)
    if not captures.tensors and not is_recorded(*arrays, {}):
        return call.forward(want_lse, want_max)
    if captures.tensors and call.score_mod is None and scales_by(captures, call.form):
        call.ask_for_each_score()
    if call.score_mod is not None:
        call.require_derivative()
    out, lse, most = FlexAttention.apply(call.without_arrays(), want_max, *call.arrays, *captures.tensors)
    return out, lse if want_lse else None, most


def expanded(query, key, value):
    """The three with as many batches of keys as of queries; torch sums the gradients of what is broadcast."""
    batch = query.shape[0] if has_axes(query) else 1
    return query, *(
        array.expand(batch, -1, -1, -1) if has_axes(array) and array.shape[0] == 1 != batch else array
        for array in (key, value)
    )


def has_axes(array):
    """Whether it is a tensor of four; those of nested ones have no sizes."""
    return isinstance(array, torch.Tensor) and array.ndim == 4 and not array.is_nested


def scales_by(captures, form):
    """Whether a known score_mod multiplies with some of `captures`, or bends by them."""
    score = traced(Substituted(captures.tensors, captures.tensors), form, ONE_PAIR)
    numbers = (score.factor, score.inside)
    return any(isinstance(number, torch.Tensor) and number.requires_grad for number in numbers)


class FlexAttention(torch.autograd.Function):
    """(out, logsumexp, max_scores or None) of a FlexCall, of query, key, value, and tensors it captures."""

    @staticmethod
    def forward(ctx, call, want_max, *arrays):
        ctx.call = call
        ctx.captured = arrays[3:]
        ctx.others = [None if isinstance(array, torch.Tensor) else array for array in arrays[:3]]
        out, lse, most = call.with_arrays(*arrays[:3]).forward(True, want_max)
        ctx.save_for_backward(*(x for x in arrays if isinstance(x, torch.Tensor)), out, lse)
        ctx.set_materialize_grads(False)
        if most is not None:
            ctx.mark_non_differentiable(most)
        return out, lse, most

    @staticmethod
    def backward(ctx, dout, dlse, _):
        saved = ctx.saved_tensors
        if are_batched():
            raise NotImplementedError(
                "query: gradients of many results at once are asked for, expected those of one; "
                "torch.vmap and is_grads_batched=True are for mfa.scaled_dot_product_attention"
            )
        if not torch.is_grad_enabled():
            return backward(ctx, saved, dout, dlse)
        return apply_last(lambda: backward(ctx, saved, dout, dlse), dout, dlse, *saved)


def backward(ctx, saved, dout, dlse):
    """What `FlexAttention.backward` returns."""
    *kept, out, lse = saved
    kept = iter(kept)
    call = ctx.call.with_arrays(*(next(kept) if other is None else other for other in ctx.others))
    captures = biases = None
    if ctx.captured:
        captures = Substituted(ctx.captured, list(kept))
        biases = biases_of(captures, call) if call.score_mod is None else None
    wanted = [name for name, needed in zip(OF_INPUTS, ctx.needs_input_grad[2:], strict=False) if needed]
    if dout is None:
        dout = torch.zeros_like(out)
    gradients = call.backward(dout, out, lse, dlse, wanted=wanted, captures=captures, biases=biases)
    return None, None, *gradients[:3], *(captures.gradients if captures else ())

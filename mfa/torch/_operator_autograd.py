"""Gradients of the operators."""

import torch
from torch._functorch.utils import enable_single_level_autograd_function

from mfa._gradients import Gradients
from mfa.torch._autograd import LastDerivative, backward, require_gradients, require_no_tangents
from mfa.torch._library import attention, attention_append, attention_backward
from mfa.torch._schema import APPEND, APPENDED, BACKWARD, FORWARD, FORWARD_ONLY, RESULT


class OperatorCall:
    """As `Call`, with passes that are operators, for a compiler to see both."""

    def __init__(self, keyset, given):
        self.keyset = keyset
        self.tensors = tuple(name for name, value in given.items() if isinstance(value, torch.Tensor))
        self.others = given | dict.fromkeys(self.tensors)

    def given(self, tensors):
        return self.others | dict(zip(self.tensors, tensors, strict=True))

    def forward(self, tensors):
        return recorded_below(attention, self.keyset, self.given(tensors).values())

    def backward(self, tensors, dout, out, lse, dlse, wanted):
        given = self.given(tensors)
        query, key, value = given.pop("query"), given.pop("key"), given.pop("value")
        for name in (*FORWARD_ONLY, *RESULT):
            given.pop(name, None)
        return Gradients(
            *attention_backward(dout, query, key, value, out, lse, dlse, " ".join(wanted), *given.values())
        )


class AttentionOperator(torch.autograd.Function):
    """`Attention` of an OperatorCall, whose backward pass may be traced and transformed in its turn."""

    @staticmethod
    def forward(ctx, call, *tensors):
        out, lse = call.forward(tensors)
        ctx.call = call
        ctx.save_for_backward(*tensors, out, lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx, dout, dlse):
        return backward(ctx, ctx.saved_tensors, dout, dlse)


def below_autograd(operator, keyset, arguments):
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def recorded_below(operator, keyset, arguments):
    """From a Function, which has no gradients inside: those that torch.func takes around this one go on."""
    with torch.enable_grad(), torch.autograd.forward_ad._set_fwd_grad_enabled(True):
        return below_autograd(operator, keyset, arguments)


def are_recorded(arguments):
    return torch.is_grad_enabled() and any(
        isinstance(argument, torch.Tensor) and argument.requires_grad for argument in arguments
    )


def apply(function, *arguments):
    """The function at the level that the dispatcher is at, of those that torch.func has opened."""
    with enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*arguments)


def record(keyset, *arguments):
    require_no_tangents(FORWARD.given(arguments), {})
    if not are_recorded(arguments):
        return below_autograd(attention, keyset, arguments)
    given = FORWARD.given(arguments)
    call = OperatorCall(keyset, given)
    require_no(FORWARD_ONLY, given)
    tensors = [given[name] for name in call.tensors]
    require_gradients(dict(zip(call.tensors, tensors, strict=True)), {})
    return apply(AttentionOperator, call, *tensors)


def record_append(keyset, *arguments):
    require_no_tangents(APPEND.given(arguments), {})
    if are_recorded(arguments):
        require_no(FORWARD_ONLY | APPENDED, APPEND.given(arguments))
    return below_autograd(attention_append, keyset, arguments)


def record_backward(keyset, *arguments):
    require_no_tangents(BACKWARD.given(arguments), {})
    if not are_recorded(arguments):
        return below_autograd(attention_backward, keyset, arguments)
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return apply(LastDerivative, lambda: recorded_below(attention_backward, keyset, arguments), *tensors)


def require_no(arguments, given):
    for name in arguments:
        if isinstance(given.get(name), torch.Tensor):
            raise ValueError(f"{name}: given, expected None, as there are no gradients of calls with it")

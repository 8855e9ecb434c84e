"""Gradients of the operators."""

import torch
from torch._functorch.utils import enable_single_level_autograd_function

from mfa._gradients import Gradients
from mfa.torch._autograd import Call, backward, require_gradients
from mfa.torch._library import attention, attention_append, attention_backward
from mfa.torch._schema import APPEND, APPENDED, BACKWARD, FORWARD, FORWARD_ONLY


class OperatorCall(Call):
    """A call whose passes are operators, for a compiler to see both."""

    def __init__(self, keyset, given):
        tensors = {name: value for name, value in given.items() if isinstance(value, torch.Tensor)}
        super().__init__(given | dict.fromkeys(tensors), tuple(tensors), {}, None, True, None)
        self.keyset = keyset

    def forward(self, tensors):
        return below_autograd(attention, self.keyset, self.arrays(tensors).values())

    def backward(self, tensors, dout, out, lse, dlse, wanted):
        given = self.arrays(tensors)
        given.pop("out_dtype", None)
        query, key, value = given.pop("query"), given.pop("key"), given.pop("value")
        for name in FORWARD_ONLY:
            given.pop(name, None)
        flags = [name in wanted for name in Gradients._fields]
        return Gradients(*attention_backward(dout, query, key, value, out, lse, dlse, flags, *given.values()))


class AttentionOperator(torch.autograd.Function):
    """`Attention` of an OperatorCall, whose backward pass may be traced and transformed in its turn."""

    @staticmethod
    def forward(ctx, call, *tensors):
        out, lse = call.forward(tensors)
        ctx.call = call
        ctx.save_for_backward(*tensors, out, lse)
        ctx.set_materialize_grads(False)
        return out, lse

    backward = staticmethod(backward)


class WithoutDerivative(torch.autograd.Function):
    """What `compute` returns, of which no gradient may be asked."""

    @staticmethod
    def forward(ctx, compute, *tensors):
        return compute()

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError(
            "query: a second derivative of attention is asked for, expected the first alone; "
            "create_graph=True is for what comes before or behind it"
        )


def below_autograd(operator, keyset, arguments):
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


def are_recorded(arguments):
    return torch.is_grad_enabled() and any(
        isinstance(argument, torch.Tensor) and argument.requires_grad for argument in arguments
    )


def apply(function, *arguments):
    """The function at the level that the dispatcher is at, of those that torch.func has opened."""
    with enable_single_level_autograd_function():
        return super(torch.autograd.Function, function).apply(*arguments)


def require_no_tangents(names, arguments):
    """As `require_plain` in mfa/_tensors.py does of eager calls."""
    forward_ad = torch.autograd.forward_ad
    if forward_ad._current_level < 0:
        return
    for name, argument in zip(names, arguments, strict=False):
        if isinstance(argument, torch.Tensor) and forward_ad.unpack_dual(argument).tangent is not None:
            raise ValueError(
                f"{name}: has a tangent, and forward-mode gradients are not computed here; "
                f"expected {name}.detach()"
            )


def record(keyset, *arguments):
    require_no_tangents(FORWARD.names, arguments)
    if not are_recorded(arguments):
        return below_autograd(attention, keyset, arguments)
    given = FORWARD.given(arguments)
    call = OperatorCall(keyset, given)
    require_no(FORWARD_ONLY, given)
    tensors = [given[name] for name in call.tensors]
    require_gradients(dict(zip(call.tensors, tensors, strict=True)), {})
    return apply(AttentionOperator, call, *tensors)


def record_append(keyset, *arguments):
    require_no_tangents(APPEND.names, arguments)
    if are_recorded(arguments):
        require_no(FORWARD_ONLY | APPENDED, APPEND.given(arguments))
    return below_autograd(attention_append, keyset, arguments)


def record_backward(keyset, *arguments):
    require_no_tangents(BACKWARD.names, arguments)

    def compute():
        return below_autograd(attention_backward, keyset, arguments)

    if not are_recorded(arguments):
        return compute()
    tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
    return apply(WithoutDerivative, compute, *tensors)


def require_no(arguments, given):
    for name in arguments:
        if isinstance(given.get(name), torch.Tensor):
            raise ValueError(f"{name}: given, expected None, as there are no gradients of calls with it")

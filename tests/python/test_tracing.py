"""What torch traces into a program would lack the call, or hold its result as a constant: it is refused."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import mfa

SHAPE = (1, 1, 3, 4)
CALLS = {
    "attention": lambda x: mfa.attention(x, x, x),
    "sinks": lambda x: mfa.attention(*[np.ones(SHAPE, np.float32)] * 3, sinks=x.flatten()[:3]),
    "out": lambda x: mfa.attention(*[np.ones(SHAPE, np.float32)] * 3, out=x),
    "attention_backward": lambda x: mfa.attention_backward(x, x, x, x, x, x[:, 0, :, :1])[0],
    "plan": lambda x: mfa.plan(x, x, x),
    "sdpa": lambda x: mfa.scaled_dot_product_attention(x, x, x),
    "sdpa with dropout": lambda x: mfa.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "sdpa of five axes": lambda x: mfa.scaled_dot_product_attention(x[None], x[None], x[None]),
    "flash_attn_func": lambda x: mfa.flash_attn_func(x, x, x),
    "buffer": lambda x: mfa.Buffer(mfa.Context(), x),
}
REFUSAL = r"^\w+: a tensor that torch is tracing or transforming has no memory; expected a plain tensor$"


def in_fake_mode(call):
    def trace(x):
        with FakeTensorMode(allow_non_fake_inputs=True):
            call(x)

    return trace


TRACERS = {
    "jit.trace": lambda call: lambda x: torch.jit.trace(call, x, check_trace=False),
    "make_fx": lambda call: make_fx(call),
    "make_fx before dispatch": lambda call: make_fx(call, pre_dispatch=True),
    "make_fx of fake tensors": lambda call: make_fx(call, tracing_mode="fake"),
    "make_fx of functional tensors": lambda call: make_fx(torch.func.functionalize(call)),
    "fake mode around real tensors": in_fake_mode,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("call", CALLS)
def test_tracing_is_refused(tracer, call):
    with pytest.raises(TypeError, match=REFUSAL):
        TRACERS[tracer](CALLS[call])(torch.ones(SHAPE))
    CALLS[call](torch.ones(SHAPE))


def test_symbolic_trace_is_refused_by_name():
    with pytest.raises(BufferError, match=r"^query: "):
        torch.fx.symbolic_trace(CALLS["attention"])


def test_a_mode_that_only_watches_is_no_tracing():
    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    x = torch.randn(SHAPE)
    expected = mfa.attention(x, x, x)
    with Watching():
        assert torch.equal(mfa.attention(x, x, x), expected)


def test_arrays_that_torch_does_not_trace_are_computed_while_it_traces():
    ones = np.ones(SHAPE, np.float32)
    seen = []

    def call(x):
        seen.append(mfa.attention(ones, ones, ones))
        return x + 1

    make_fx(call)(torch.ones(3))
    assert np.array_equal(seen[0], ones)

"""What torch traces into a program has the call as an operator; where it would not, the call is refused."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import mfa

SHAPE = (1, 1, 3, 4)
ONES = [np.ones(SHAPE, np.float32)] * 3
REFUSED = {
    "sinks": lambda x: mfa.attention(*ONES, sinks=x.flatten()[:3]),
    "out": lambda x: mfa.attention(*ONES, out=x),
    "plan": lambda x: mfa.plan(x, x, x),
    "buffer": lambda x: mfa.Buffer(mfa.Context(), x),
}
RECORDED = {
    "attention": lambda x: mfa.attention(x, x, x),
    "sdpa": lambda x: mfa.scaled_dot_product_attention(x, x, x),
    "sdpa with dropout": lambda x: mfa.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "sdpa of five axes": lambda x: mfa.scaled_dot_product_attention(x[None], x[None], x[None]),
    "attention_backward": lambda x: mfa.attention_backward(x, x, x, x, x, x[:, 0, :, :1])[0],
    "flash_attn_func": lambda x: mfa.flash_attn_func(x, x, x),
}
REFUSAL = r"^\w+: a tensor that torch is tracing or transforming has no memory; expected a plain tensor$"


def in_fake_mode(call):
    def trace(x):
        with FakeTensorMode(allow_non_fake_inputs=True):
            call(x)

    return trace


TRACERS = {
    "jit.trace": lambda call: lambda x: torch.jit.trace(call, x, check_trace=False),
    "make_fx": lambda call: lambda x: make_fx(call)(x),
    "make_fx before dispatch": lambda call: lambda x: make_fx(call, pre_dispatch=True)(x),
    "make_fx of fake tensors": lambda call: lambda x: make_fx(call, tracing_mode="fake")(x),
    "make_fx of functional tensors": lambda call: lambda x: make_fx(torch.func.functionalize(call))(x),
    "fake mode around real tensors": in_fake_mode,
}


tracing = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


@tracing
@pytest.mark.parametrize("tracer", TRACERS)
@pytest.mark.parametrize("call", REFUSED)
def test_tracing_is_refused(tracer, call):
    with pytest.raises(TypeError, match=REFUSAL):
        TRACERS[tracer](REFUSED[call])(torch.ones(SHAPE))
    REFUSED[call](torch.ones(SHAPE))


PROGRAMS = {name: tracer for name, tracer in TRACERS.items() if name != "fake mode around real tensors"}


@tracing
@pytest.mark.parametrize("tracer", PROGRAMS)
@pytest.mark.parametrize("call", RECORDED)
def test_a_program_has_the_call(tracer, call):
    x, other = torch.randn(2, *SHAPE)
    program = PROGRAMS[tracer](RECORDED[call])(x)
    results = []
    for run in (program, RECORDED[call]):
        torch.manual_seed(5)
        results.append(run(other))
    assert torch.equal(*results)


@pytest.mark.parametrize("call", RECORDED)
def test_a_mode_without_memory_has_a_result_without_memory(call):
    x = torch.ones(SHAPE)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert isinstance(RECORDED[call](x), FakeTensor)


NOT_TRACED = {
    "context": lambda x: mfa.attention(x, x, x, context=mfa.Context()),
    "out": lambda x: mfa.attention(x, x, x, out=x.clone()),
    "block_mask": lambda x: mfa.attention(x, x, x, block_mask=mfa.patterns.causal(3)),
    "delta": lambda x: mfa.attention_backward(x, x, x, x, x, x[:, 0, :, :1], delta=x[:, 0, :, :1]),
    "zero_clipped": lambda x: mfa.attention_backward(x, x, x, x, x, x[:, 0, :, :1], zero_clipped=True),
}


@pytest.mark.parametrize("name", NOT_TRACED)
def test_what_no_program_can_have_is_refused_by_name(name):
    with pytest.raises(TypeError, match=rf"^{name}: given, expected None where torch traces"):
        make_fx(NOT_TRACED[name])(torch.ones(SHAPE))


def test_an_array_that_is_no_tensor_is_refused_by_name():
    with pytest.raises(TypeError, match=r"^key: memoryview, expected a tensor where torch traces"):
        make_fx(lambda x: mfa.attention(x, memoryview(ONES[0]), x))(torch.ones(SHAPE))


def test_int8_products_of_what_is_no_code_are_refused():
    with pytest.raises(
        ValueError, match=r"^compute_mode: 'int8', expected 'exact', or a QuantizedTensor as key"
    ):
        make_fx(lambda x: mfa.attention(x, x, x, compute_mode="int8"))(torch.ones(SHAPE))


def test_symbolic_trace_is_refused_by_name():
    with pytest.raises(BufferError, match=r"^query: "):
        torch.fx.symbolic_trace(RECORDED["attention"])


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

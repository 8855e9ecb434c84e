"""Torch tensors in, torch tensors out; what autograd, functorch and devices would make wrong is refused."""

import numpy as np
import pytest
import torch
from support.arrays import BFLOAT16, SHAPE, same
from torch._subclasses.fake_tensor import FakeTensorMode

import mfa


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_torch_in_torch_out(operands, dtype):
    tensors = [torch.from_numpy(x).to(dtype) for x in operands]
    out, logsumexp = mfa.attention(*tensors, return_lse=True)
    assert isinstance(out, torch.Tensor)
    assert (out.dtype, out.shape) == (dtype, torch.Size(SHAPE))
    assert (logsumexp.dtype, logsumexp.shape) == (torch.float32, torch.Size((2, 3, 5)))
    if dtype == torch.bfloat16:
        arrays = [x.view(torch.uint16).numpy().view(BFLOAT16) for x in tensors]
        out = out.view(torch.uint16).numpy().view(BFLOAT16)
    else:
        arrays = [x.numpy() for x in tensors]
        out = out.numpy()
    expected = mfa.attention(*arrays, return_lse=True)
    assert same(out, expected[0])
    assert same(logsumexp.numpy(), expected[1])


def test_query_decides_the_kind(operands):
    query, key, value = operands
    assert isinstance(mfa.attention(query, torch.from_numpy(key), value), np.ndarray)
    assert isinstance(mfa.attention(torch.from_numpy(query), key, value), torch.Tensor)


def test_torch_strides(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    result = mfa.attention(*(x.transpose(1, 2) for x in tensors), layout="bhsd")
    assert torch.equal(result.transpose(1, 2), mfa.attention(*tensors))


def test_torch_slopes_sinks_and_masks(operands, rng):
    slopes, sinks = (rng.random(3).astype(np.float32) for _ in range(2))
    mask = rng.random((3, 5, 5)) < 0.5
    bias = rng.standard_normal((5, 5)).astype(np.float32)
    expected = mfa.attention(*operands, alibi_slopes=slopes, sinks=sinks, mask=mask, bias=bias)
    as_torch = [torch.from_numpy(x) for x in (slopes, sinks, mask, bias)]
    names = ("alibi_slopes", "sinks", "mask", "bias")
    assert same(mfa.attention(*operands, **dict(zip(names, as_torch, strict=True))), expected)


def test_torch_bfloat16_sinks(operands):
    exact = np.array([0.5, -2, 1], np.float32)
    result = mfa.attention(*operands, sinks=torch.from_numpy(exact).bfloat16())
    assert same(result, mfa.attention(*operands, sinks=exact))


@pytest.mark.parametrize("name", ["alibi_slopes", "out"])
def test_torch_grad_is_refused_by_name_and_accepted_without_grad_mode(operands, name):
    arguments = dict(zip(("query", "key", "value"), map(torch.from_numpy, operands), strict=True))
    shapes = {"mask": (5, 5), "bias": (5, 5), "sinks": (3,), "alibi_slopes": (3,), "out": SHAPE}
    if name in shapes:
        arguments[name] = torch.zeros(shapes[name])
    with torch.no_grad():
        expected = mfa.attention(**arguments).clone()
    arguments[name].requires_grad_()
    with pytest.raises(ValueError, match=rf"^{name}: (requires grad.*expected {name}\.detach\(\)|given)"):
        mfa.attention(**arguments)
    with torch.no_grad():
        assert torch.equal(mfa.attention(**arguments), expected)


def test_torch_negative_bit(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    minus = torch.complex(torch.zeros(SHAPE), -tensors[0]).conj().imag
    assert minus.is_neg()
    assert torch.equal(mfa.attention(minus, *tensors[1:]), mfa.attention(*tensors))
    with pytest.raises(BufferError, match="out: has its negative bit set"):
        mfa.attention(*tensors, out=minus)


def test_torch_subclass_that_takes_no_functions(operands):
    class Mute(torch.Tensor):
        @classmethod
        def __torch_function__(cls, *_):
            raise RuntimeError("no function")

    query, key, value = (torch.from_numpy(x) for x in operands)
    for dropout_p in (0.0, 0.5):
        torch.manual_seed(3)
        expected = mfa.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
        torch.manual_seed(3)
        mute = query.as_subclass(Mute)
        assert torch.equal(mfa.scaled_dot_product_attention(mute, key, value, dropout_p=dropout_p), expected)


def test_torch_subclass_that_has_other_tensors(operands):
    """Its place in memory is an offset from nowhere, which would be read where it is not 0."""

    class Wrapper(torch.Tensor):
        @staticmethod
        def __new__(cls, tensor, offset):
            strides = tensor.stride()
            return cls._make_wrapper_subclass(cls, tensor.shape, strides, offset, dtype=tensor.dtype)

        @classmethod
        def __torch_dispatch__(cls, *_):
            raise RuntimeError("no operator")

    query, key, value = (torch.from_numpy(x) for x in operands)
    for offset in (0, 100):
        with pytest.raises(BufferError, match=r"^key: Wrapper, whose numbers are elsewhere; expected"):
            mfa.attention(query, Wrapper(key, offset), value)


@pytest.mark.parametrize("name", ["alibi_slopes", "sinks"])
def test_torch_negative_bit_of_slopes_and_sinks(operands, name):
    tensors = [torch.from_numpy(x) for x in operands]
    numbers = torch.tensor([0.5, -0.25, 2])
    minus = torch.complex(torch.zeros(3), -numbers).conj().imag
    assert minus.is_neg()
    assert torch.equal(mfa.attention(*tensors, **{name: minus}), mfa.attention(*tensors, **{name: numbers}))


# The first use of forward mode makes torch compile scripts of its own.
first_forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script.* is deprecated:DeprecationWarning")


@first_forward_mode
@pytest.mark.parametrize("name", ["query", "sinks"])
def test_torch_tangent_is_refused(operands, name):
    arguments = dict(zip(("query", "key", "value"), map(torch.from_numpy, operands), strict=True))
    arguments["sinks"] = torch.ones(3)
    expected = mfa.attention(**arguments)
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(mfa.attention(**arguments), expected)
        plain = arguments[name]
        arguments[name] = torch.autograd.forward_ad.make_dual(plain, torch.ones_like(plain))
        with torch.no_grad(), pytest.raises(ValueError, match=rf"^{name}: has a tangent, .*\.detach\(\)"):
            mfa.attention(**arguments)


@first_forward_mode
@pytest.mark.parametrize("name", ["key", "sinks"])
def test_torch_tensors_without_memory_beside_arrays_are_refused(operands, name):
    arguments = dict(zip(("query", "key", "value"), operands, strict=True), sinks=np.ones(3, np.float32))
    plain = torch.from_numpy(arguments[name])

    def call(tensor):
        with pytest.raises(TypeError, match=rf"^{name}: .*has no memory; expected a plain tensor"):
            mfa.attention(**{**arguments, name: tensor})
        return tensor

    call(FakeTensorMode().from_tensor(plain))
    call(torch._to_functional_tensor(plain))
    torch.func.vmap(call)(plain.unsqueeze(0))
    torch.func.jvp(call, (plain,), (torch.ones_like(plain),))


def test_torch_default_device_does_not_matter(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    expected = mfa.attention(*tensors, return_lse=True)
    five_axes = [x[None] for x in tensors]
    expected_five = mfa.scaled_dot_product_attention(*five_axes)
    with torch.device("meta"):
        out, logsumexp = mfa.attention(*tensors, return_lse=True)
        out_five = mfa.scaled_dot_product_attention(*five_axes)
    assert torch.equal(out, expected[0])
    assert torch.equal(logsumexp, expected[1])
    assert torch.equal(out_five, expected_five)


def test_only_an_out_of_the_caller_counts_as_changed(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    assert mfa.attention(*tensors)._version == 0
    assert mfa.attention(*tensors, out=torch.zeros(SHAPE))._version == 1


def test_torch_out_written_after_autograd_saved_it(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    weight = torch.ones(SHAPE, requires_grad=True)
    out = torch.zeros(SHAPE)
    product = weight * out
    mfa.attention(*tensors, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_torch_inference_mode(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    with torch.inference_mode():
        out = torch.zeros(SHAPE)
        assert torch.equal(mfa.attention(*tensors, out=out), mfa.attention(*tensors))


def test_torch_device_is_named(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    with pytest.raises(BufferError, match="key: on device meta, expected cpu"):
        mfa.attention(tensors[0], tensors[1].to("meta"), tensors[2])
    with pytest.raises(BufferError, match="sinks: on device meta, expected cpu"):
        mfa.attention(*tensors, sinks=torch.zeros(3, device="meta"))


def test_torch_sparse_is_refused_by_name(operands):
    tensors = [torch.from_numpy(x) for x in operands]
    with pytest.raises(BufferError, match="value: "):
        mfa.attention(*tensors[:2], tensors[2].to_sparse())


def test_codes_stay_where_they_were_when_the_tensor_moves():
    codes = torch.full((1, 64, 2, 32), 5, dtype=torch.int8)
    stored = mfa.QuantizedTensor(codes, torch.ones(1, 64, 2, 1))
    codes.data = torch.empty(0, dtype=torch.int8)
    others = [torch.full((1, 64, 2, 32), 7, dtype=torch.int8) for _ in range(8)]
    assert (stored.data == 5).all(), others[0].shape

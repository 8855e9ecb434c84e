"""Plain tensors are read without a capsule and made without the dispatcher, with no other results for it."""

import pytest
import torch

import mfa
from mfa import _memory
from mfa._attention_keywords import DEFAULTS
from mfa._call import ForwardCall
from mfa._inputs import Inputs


class Mine(torch.Tensor):
    pass


@pytest.fixture
def no_capsules(monkeypatch):
    def refuse(tensor, name, *_):
        raise AssertionError(f"{name}: a capsule")

    monkeypatch.setattr(_memory, "capsule_of", refuse)


def tensors(dtype=torch.float32, shape=(2, 3, 5, 8)):
    return torch.randn(3, *shape).to(dtype).unbind()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_plain_tensors_take_no_capsule(no_capsules, dtype):
    query, key, value = tensors(dtype)
    mask = torch.ones(5, 5, dtype=torch.bool)
    mfa.scaled_dot_product_attention(query, torch.nn.Parameter(key, requires_grad=False), value, mask)
    mfa.attention(query, key, value, layout="bhsd", sinks=torch.zeros(3), out=torch.empty(query.shape))
    with torch.no_grad():
        mfa.attention(query, torch.nn.Parameter(key), value)


ODD = {
    "negative": lambda x: torch.complex(x, -x).conj().imag,
    "subclass": lambda x: x.as_subclass(Mine),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_tensors_do(no_capsules, kind):
    query, key, value = tensors()
    with pytest.raises(AssertionError, match=r"^key: a capsule"):
        mfa.scaled_dot_product_attention(query, ODD[kind](key), value)


def test_tensors_beside_one_of_five_axes_do(no_capsules):
    """Arrays are made of them, which hold on to the memory that they began with."""
    query, key, value = tensors()
    with pytest.raises(AssertionError, match=r"^query: a capsule"):
        mfa.scaled_dot_product_attention(query, key[None], value)


def test_a_thread_that_torch_watches_does(no_capsules):
    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    with Watching(), pytest.raises(AssertionError, match=r"^query: a capsule"):
        mfa.attention(*tensors())


@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 1, 1, 1), (1, 3, 1, 8), (2, 3, 0, 8), (3, 5, 8), (5, 8)])
@pytest.mark.parametrize("is_rows_first", [False, True])
def test_results_lie_where_the_longer_way_puts_them(shape, is_rows_first):
    query = torch.randn(shape)
    if is_rows_first and len(shape) > 2:
        query = query.transpose(-3, -2).contiguous().transpose(-3, -2)
    expected = mfa.scaled_dot_product_attention(query.as_subclass(Mine), query, query)
    result = mfa.scaled_dot_product_attention(query, query, query)
    assert type(result) is torch.Tensor
    assert (result.shape, result.stride()) == (expected.shape, expected.stride())
    assert torch.equal(result, expected)


def test_results_of_inference_mode_are_inference_tensors():
    query, key, value = tensors()
    with torch.inference_mode():
        assert mfa.attention(query, key, value).is_inference()
    assert not mfa.attention(query, key, value).is_inference()


def test_results_that_do_not_fit_are_memory_errors():
    few = torch.ones(1, 1, 1, 1)
    with pytest.raises(MemoryError, match=r"^a result of shape \(1, 1, 1152921504606846976, 4\): "):
        mfa.attention(few.expand(1, 1, 2**60, 1), few, few.expand(1, 1, 1, 4), layout="bhsd")


def test_sizes_are_those_that_a_tensor_had_when_it_was_read():
    query, key, value = tensors()
    expected = mfa.attention(query, key, value)

    class Shrinking:
        def __dlpack_device__(self):
            return 1, 0

        def __dlpack__(self, **_):
            key.resize_(1, 1, 1, 1)  # which leaves the memory as it is
            return value.__dlpack__()

    assert torch.equal(mfa.attention(query, key, Shrinking()), expected)
    assert key.shape == (1, 1, 1, 1)


def test_a_conjugate_out_is_refused_by_name():
    query, key, value = tensors()
    out = torch.complex(query, query).conj()
    with pytest.raises(BufferError, match=r"^out: has its conjugate bit set"):
        mfa.attention(query, key, value, out=out)


def test_keywords_in_another_order_are_all_looked_at():
    query, key, value = tensors()
    for given in ({"layout": "bhsd", "causal": True}, {"sinks": torch.zeros(5), "compute_mode": "exact"}):
        keywords = dict(reversed((DEFAULTS | given).items()))
        result = ForwardCall(Inputs(query, key, value, keywords)).run()
        assert torch.equal(result, mfa.attention(query, key, value, **given))

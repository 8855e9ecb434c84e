"""The operators that programs call: schemas, fake results to the stride, gradients, and torch.func."""

import hashlib
import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import mfa
from mfa._attention_keywords import DEFAULTS
from mfa.torch._operators import attention, attention_append, attention_backward
from mfa.torch._schema import APPEND, BACKWARD, NAMESPACE

BATCH, HEADS, KV_HEADS, ROWS, KEYS, DIM, VALUE_DIM = 2, 4, 2, 5, 6, 8, 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(7)


def operands(layout="bhsd", requires_grad=False, dtype=torch.float32):
    shapes = (BATCH, HEADS, ROWS, DIM), (BATCH, KV_HEADS, KEYS, DIM), (BATCH, KV_HEADS, KEYS, VALUE_DIM)
    tensors = [torch.randn(shape, dtype=dtype) for shape in shapes]
    if layout == "bshd":
        tensors = [tensor.transpose(1, 2).contiguous() for tensor in tensors]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


def packed(layout="bshd", requires_grad=False):
    tensors = [
        torch.randn(shape) for shape in ((7, HEADS, DIM), (9, KV_HEADS, DIM), (9, KV_HEADS, VALUE_DIM))
    ]
    if layout == "bhsd":
        tensors = [tensor.transpose(0, 1) for tensor in tensors]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


def int32(*numbers):
    return torch.tensor(numbers, dtype=torch.int32)


def test_operators_have_every_keyword():
    without = {"block_mask", "sparsity", "compute_mode"}  # see mfa/torch/_traced.py
    known = {*APPEND.names, *without} - {"query", "key", "value", "drawn_seed", "out_dtype"}
    assert set(DEFAULTS) == known
    assert set(BACKWARD.names) < {*APPEND.names, "dout", "out", "lse", "dlse", "wanted"}


def test_a_schema_keeps_the_name_that_programs_on_disk_call_it_by():
    """Should this fail on purpose, NAMESPACE in mfa/torch/_schema.py is to change, and this with it."""
    schemas = "".join(str(operator._schema) for operator in (attention, attention_append, attention_backward))
    assert (NAMESPACE, hashlib.sha256(schemas.encode()).hexdigest()[:16]) == ("mfa_1", "297eb137ee244521")


LISTS = {"cu_seqlens_q": int32(0, 3, 7), "cu_seqlens_k": int32(0, 4, 9)}
CALLS = {
    "plain": (operands, {}),
    "bhsd": (operands, {"layout": "bhsd"}),
    "causal": (operands, {"layout": "bhsd", "causal": "top-left", "window": [2, -1], "softcap": 3.0}),
    "bool mask": (operands, {"layout": "bhsd", "mask": torch.rand(ROWS, KEYS) < 0.6}),
    "additive": (
        operands,
        {"layout": "bhsd", "bias": torch.randn(HEADS, 1, KEYS), "sinks": torch.randn(HEADS)},
    ),
    "alibi": (operands, {"layout": "bhsd", "alibi_slopes": torch.rand(HEADS), "softmax_scale": 0.5}),
    "dropout": (operands, {"layout": "bhsd", "dropout_p": 0.5, "dropout_seed": -3, "dropout_offset": 5}),
    "drawn seed": (operands, {"layout": "bhsd", "dropout_p": 0.5, "drawn_seed": torch.tensor(11)}),
    "padded": (operands, {"layout": "bhsd", "seqused_k": int32(2, 6), "leftpad_k": int32(0, 1)}),
    "varlen": (packed, LISTS | {"max_seqlen_q": 4}),
    "varlen with heads first": (packed, LISTS | {"layout": "bhsd"}),
}
CALLS["plain"] = (lambda layout, **kwargs: operands("bshd", **kwargs), {})


def arguments(name, **kwargs):
    make, keywords = CALLS[name]
    return make(keywords.get("layout", "bshd"), **kwargs), keywords


@pytest.mark.parametrize("name", CALLS)
def test_opcheck_of_the_forward_operator(name):
    tensors, keywords = arguments(name, requires_grad=True)
    opcheck(attention, tensors, keywords)


@pytest.mark.parametrize("name", CALLS)
def test_opcheck_of_the_backward_operator(name):
    tensors, keywords = arguments(name)
    out, lse = attention(*tensors, **keywords)
    wanted = "dq dk dv" + " dbias" * ("bias" in keywords) + " dsinks" * ("sinks" in keywords)
    dlse = torch.randn(lse.shape)
    opcheck(attention_backward, (torch.randn(out.shape), *tensors, out, lse, dlse, wanted), keywords)


def test_opcheck_of_the_operator_that_appends():
    query, key, value = operands("bshd")
    new = {"k_new": key[:, :2].clone(), "v_new": value[:, :2].clone(), "seqused_k": int32(1, 3)}
    opcheck(attention_append, (query, key, value), new)


def strided(shape, order):
    """A tensor whose axes lie in memory in that order."""
    inside_out = torch.randn([shape[axis] for axis in order])
    return inside_out.permute([order.index(axis) for axis in range(len(shape))])


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 4, 5, 8), (2, 1, 5, 8), (2, 4, 1, 8), (1, 1, 1, 8), (0, 4, 5, 8)], ids=str
)
def test_fake_results_lie_as_real_ones(layout, order, shape):
    query = strided(shape, order)
    key, value = torch.randn(shape), torch.randn(shape)
    real = attention(query, key, value, layout)
    gradients = attention_backward(
        torch.ones_like(real[0]), query, key, value, *real, None, "dq dk dv", layout
    )
    with FakeTensorMode() as mode:
        query, key, value = (mode.from_tensor(x) for x in (query, key, value))
        fake = attention(query, key, value, layout)
        fakes = attention_backward(fake[0], query, key, value, *fake, None, "dq dk dv", layout)
    for one, other in zip((*real, *gradients), (*fake, *fakes), strict=True):
        assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_those_of_eager_calls(name):
    tensors, keywords = arguments(name, requires_grad=True)
    eager = dict(keywords)
    if "drawn_seed" in eager:
        eager["dropout_seed"] = eager.pop("drawn_seed").item()
    if eager.get("dropout_seed", 0) < 0:
        eager["dropout_seed"] += 2**64
    results = []
    for out, lse in (
        attention(*tensors, **keywords),
        mfa.attention(*tensors, **eager, return_lse=True),
    ):
        loss = out.square().sum() + lse[lse.isfinite()].square().sum()
        results.append((out, lse, *torch.autograd.grad(loss, tensors)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def sdpa(*tensors):
    return mfa.scaled_dot_product_attention(*tensors, is_causal=True)


def expected_sdpa(query, key, value):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value


def loss_of(function):
    return lambda *tensors: function(*tensors).square().sum()


TRANSFORMS = {
    "grad": lambda f, x: torch.func.grad(loss_of(f), (0, 1, 2))(*x),
    "vjp": lambda f, x: torch.func.vjp(f, *x)[1](torch.ones(x[0].shape)),
    "vmap": lambda f, x: torch.func.vmap(f)(
        *(t[None].repeat(3, 1, 1, 1, 1) * torch.rand(3, 1, 1, 1, 1) for t in x)
    ),
    "vmap of some": lambda f, x: torch.func.vmap(f, in_dims=(4, None, None), out_dims=1)(
        x[0][..., None] * torch.arange(3.0), *x[1:]
    ),
    "vmap of none": lambda f, x: torch.func.vmap(f)(*(t[None][:0] for t in x)),
    "vmap of vmap": lambda f, x: torch.func.vmap(torch.func.vmap(f))(*(t[:, None, None] for t in x)),
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(loss_of(f), (0, 1, 2)))(
        *(t[:, None] for t in x)
    ),
    "grad of vmap": lambda f, x: torch.func.grad(loss_of(torch.func.vmap(f)), (0, 1, 2))(
        *(t[:, None] for t in x)
    ),
    "jacrev": lambda f, x: torch.func.jacrev(f)(*(t[:1, :1] for t in x)),
    "value and grad in grad": lambda f, x: torch.func.grad(
        lambda y: torch.func.grad_and_value(lambda q: loss_of(f)(q, y, x[2]))(x[0])[1]
    )(x[1]),
    "functionalize": lambda f, x: torch.func.functionalize(f)(*x),
}


def test_dropout_under_vmap_is_as_random_as_asked():
    x = torch.ones(3, 1, 2, 6, 6)

    def dropped(x):
        return mfa.scaled_dot_product_attention(x, x, x.cumsum(-2), dropout_p=0.5)

    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(dropped)(x)
    same = torch.func.vmap(dropped, randomness="same")(x)
    assert torch.equal(same[0], same[1])
    different = torch.func.vmap(dropped, randomness="different")(x)
    assert not torch.equal(different[0], different[1])


def test_caches_under_vmap():
    new, caches = torch.randn(3, 1, 1, 2, 4), torch.zeros(2, 3, 1, 4, 2, 4)
    lengths = int32(1)

    def step(new, k_cache, v_cache):
        return mfa.flash_attn_with_kvcache(new, k_cache, v_cache, new, new, cache_seqlens=lengths)

    expected = caches.clone()
    outs = torch.stack([step(new[i], *expected[:, i]) for i in range(3)])
    assert torch.equal(torch.func.vmap(step)(new, *caches), outs)
    assert torch.equal(caches, expected)
    with pytest.raises(
        ValueError, match=r"^key: the same for all that torch\.vmap maps over, expected one for each"
    ):
        torch.func.vmap(step, in_dims=(0, None, None))(new, *caches[:, 0])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_are_those_of_torch(transform):
    tensors = [torch.randn(2, 2, 3, 4) for _ in range(3)]
    results = []
    for function in (sdpa, expected_sdpa):
        torch.manual_seed(3)
        results.append(TRANSFORMS[transform](function, tensors))
    torch.testing.assert_close(*results)

"""mfa.flash_attn_func and flash_attn_qkvpacked_func are FlashAttention-3's interface."""

import numpy as np
import pytest
import torch
from support import checks

import mfa


@pytest.fixture
def operands(rng):
    return checks.operands(rng, batch=2, heads=4, kv_heads=2, query_length=13, key_length=40, value_dim=24)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        ({}, {}),
        ({"causal": True}, {"causal": "bottom-right"}),
        ({"softmax_scale": 0.3}, {"softmax_scale": 0.3}),
        ({"softmax_scale": 0.0}, {"softmax_scale": 0.0}),
        ({"window_size": (5, 2)}, {"window": (5, 2)}),
        ({"window_size": (5, -1), "causal": True}, {"window": (5, -1), "causal": "bottom-right"}),
        ({"softcap": 2.0}, {"softcap": 2.0}),
        ({"attention_chunk": 7}, {"attention_chunk": 7}),
        ({"attention_chunk": 7, "causal": True}, {"attention_chunk": 7, "causal": "bottom-right"}),
    ],
    ids=str,
)
def test_equals_the_oracle(operands, dtype, arguments, meaning):
    operands = [x.astype(dtype) for x in operands]
    result = mfa.flash_attn_func(*operands, **arguments, return_attn_probs=True)
    checks.assert_matches(result, checks.expected(*operands, **meaning), layout="bshd")
    out = mfa.flash_attn_func(*operands, **arguments)
    assert checks.same_bits(out, result[0])


def test_returns_the_output_alone_unless_asked(operands):
    out = mfa.flash_attn_func(*operands)
    assert out.shape == (2, 13, 4, 24)
    out, logsumexp = mfa.flash_attn_func(*operands, return_attn_probs=True)
    assert out.shape == (2, 13, 4, 24)
    assert logsumexp.shape == (2, 4, 13)
    assert logsumexp.dtype == np.float32


def test_more_queries_than_keys_gives_zero_rows(rng):
    arrays = checks.operands(rng, query_length=10, key_length=4)
    out, logsumexp = mfa.flash_attn_func(*arrays, causal=True, return_attn_probs=True)
    assert not out[:, :6].any()
    assert np.isneginf(logsumexp[:, :, :6]).all()
    assert out[:, 6:].all()


def descale(rng, *shape):
    return rng.uniform(0.5, 2, shape).astype(np.float32)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"softmax_scale": 0.2, "softcap": 3.0}], ids=str)
def test_qv(operands, rng, dtype, options):
    operands = [x.astype(dtype) for x in operands]
    qv = rng.standard_normal((2, 13, 4, 24)).astype(dtype)
    result = mfa.flash_attn_func(*operands, qv=qv, **options, return_attn_probs=True)
    checks.assert_matches(result, checks.expected(*operands, qv=qv, **options))


@pytest.mark.parametrize("names", [("q",), ("k",), ("v",), ("q", "k", "v")], ids="".join)
@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (2, 1)], ids=str)
def test_descale(operands, rng, names, shape):
    factors = {f"{name}_descale": descale(rng, *shape) for name in names}
    result = mfa.flash_attn_func(*operands, **factors, return_attn_probs=True)
    checks.assert_matches(result, checks.expected(*operands, **factors))


def test_descale_that_is_broadcast(operands):
    """As serving engines pass it."""
    factors = np.broadcast_to(np.float32(0.5), (2, 2))
    torch_factors = torch.tensor(0.5).expand(2, 2)
    out = mfa.flash_attn_func(*operands, q_descale=factors, k_descale=torch_factors, v_descale=factors)
    scaled = mfa.flash_attn_func(*operands, softmax_scale=0.25 * 16**-0.5)
    np.testing.assert_allclose(out, 0.5 * scaled, atol=1e-6)


@pytest.fixture(params=[5, 4], ids=["5 axes", "4 axes"])
def packed(request, rng):
    """qkv, its q, k and v, and what says how it is packed."""
    heads, kv_heads = (3, 3) if request.param == 5 else (6, 2)
    qkv = rng.standard_normal((2, 11, heads + 2 * kv_heads, 16)).astype(np.float32)
    q, k, v = np.split(qkv, [heads, heads + kv_heads], axis=2)
    return (qkv.reshape(2, 11, 3, 3, 16), {}) if request.param == 5 else (qkv, {"num_heads_q": 6}), (q, k, v)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"causal": True},
        {"softmax_scale": 0.3},
        {"window_size": (3, 1)},
        {"softcap": 2.0},
        {"attention_chunk": 4},
    ],
    ids=str,
)
def test_packed_equals_apart(packed, options):
    (qkv, how), operands = packed
    out, lse = mfa.flash_attn_qkvpacked_func(qkv, **how, **options, return_attn_probs=True)
    expected, expected_lse = mfa.flash_attn_func(*operands, **options, return_attn_probs=True)
    np.testing.assert_allclose(out, expected, atol=1e-6)
    np.testing.assert_allclose(lse, expected_lse, atol=1e-6)
    assert checks.same_bits(mfa.flash_attn_qkvpacked_func(qkv, **how, **options), out)


@pytest.mark.parametrize("name", ["q_descale", "k_descale", "v_descale"])
def test_packed_descale(packed, rng, name):
    (qkv, how), operands = packed
    factors = {name: descale(rng, 2, operands[1].shape[2])}
    out, lse = mfa.flash_attn_qkvpacked_func(qkv, **how, **factors, return_attn_probs=True)
    checks.assert_matches((out, lse), checks.expected(*operands, **factors))


def test_packed_tensors_give_tensors(packed):
    (qkv, how), _ = packed
    tensor = torch.from_numpy(qkv)
    for result, expected in zip(
        mfa.flash_attn_qkvpacked_func(tensor, **how, return_attn_probs=True),
        mfa.flash_attn_qkvpacked_func(qkv, **how, return_attn_probs=True),
        strict=True,
    ):
        assert isinstance(result, torch.Tensor)
        assert np.array_equal(result.numpy(), expected)
    half = mfa.flash_attn_qkvpacked_func(tensor.bfloat16(), **how)
    assert half.dtype == torch.bfloat16
    mfa.flash_attn_qkvpacked_func(tensor.requires_grad_(), **how).sum().backward()
    assert tensor.grad.shape == tensor.shape


def test_gradients_of_what_is_packed(rng):
    """In memory that is packed likewise, as FlashAttention-3 returns them."""
    qkv = rng.standard_normal((2, 11, 3, 3, 16)).astype(np.float32)
    dout = rng.standard_normal((2, 11, 3, 16)).astype(np.float32)
    out, lse = mfa.flash_attn_qkvpacked_func(qkv, causal=True, return_attn_probs=True)
    q, k, v = (qkv[:, :, i] for i in range(3))
    gradients = mfa.attention_backward(dout, q, k, v, out, lse, causal=True)
    checks.assert_gradients_match(gradients, checks.expected_gradients(dout, q, k, v, causal=True))
    dqkv = np.stack(gradients[:3], axis=2)
    assert dqkv.shape == qkv.shape

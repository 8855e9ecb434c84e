"""mfa.flash_attn_varlen_func is FlashAttention-3's interface."""

import numpy as np
import pytest
import torch
from support import checks

import mfa

STARTS_Q = np.array([0, 13, 13, 14, 40], np.int32)
STARTS_K = np.array([0, 20, 25, 60, 77], np.int32)
LISTS = {"cu_seqlens_q": STARTS_Q, "cu_seqlens_k": STARTS_K}


@pytest.fixture
def operands(rng):
    shapes = ((42, 4, 16), (80, 2, 16), (80, 2, 24))
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def call(operands, max_seqlen_q=26, max_seqlen_k=35, **arguments):
    return mfa.flash_attn_varlen_func(*operands, STARTS_Q, STARTS_K, max_seqlen_q, max_seqlen_k, **arguments)


def int32(*numbers):
    return np.array(numbers, np.int32)


@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
@pytest.mark.parametrize(
    ("arguments", "meaning"),
    [
        ({}, {}),
        ({"causal": True}, {"causal": "bottom-right"}),
        ({"softmax_scale": 0.3}, {"softmax_scale": 0.3}),
        ({"window_size": (5, 2)}, {"window": (5, 2)}),
        ({"softcap": 2.0}, {"softcap": 2.0}),
        ({"attention_chunk": 7}, {"attention_chunk": 7}),
        ({"seqused_q": int32(10, 0, 1, 20)}, {"seqused_q": int32(10, 0, 1, 20)}),
        (
            {"seqused_k": int32(0, 5, 34, 1), "causal": True},
            {"seqused_k": int32(0, 5, 34, 1), "causal": "bottom-right"},
        ),
    ],
    ids=str,
)
def test_equals_the_oracle(operands, dtype, arguments, meaning):
    operands = [x.astype(dtype) for x in operands]
    result = call(operands, **arguments, return_attn_probs=True)
    checks.assert_matches(result, checks.expected(*operands, **LISTS, **meaning))
    assert checks.same_bits(call(operands, **arguments), result[0])


@pytest.mark.parametrize("name", ["q_descale", "k_descale", "v_descale"])
def test_descale(operands, rng, name):
    factors = {name: rng.uniform(0.5, 2, (4, 2)).astype(np.float32)}
    result = call(operands, **factors, return_attn_probs=True)
    checks.assert_matches(result, checks.expected(*operands, **LISTS, **factors))


def test_qv(operands, rng):
    qv = rng.standard_normal((42, 4, 24)).astype(np.float32)
    result = call(operands, qv=qv, return_attn_probs=True)
    checks.assert_matches(result, checks.expected(*operands, **LISTS, qv=qv))


def test_returns_the_output_alone_unless_asked(operands):
    assert call(operands).shape == (42, 4, 24)
    out, lse = call(operands, return_attn_probs=True)
    assert lse.shape == (4, 42)
    assert lse.dtype == np.float32
    assert not out[40:].any()
    assert np.isneginf(lse[:, 40:]).all()


@pytest.mark.parametrize(("rows", "keys"), [(27, 36), (1000, 100000), (None, None)])
def test_largest_lengths_may_be_larger_than_any(operands, rows, keys):
    np.testing.assert_allclose(call(operands, rows, keys), call(operands), atol=2e-6)


def test_tensors(operands):
    tensors = [torch.from_numpy(x) for x in (*operands, STARTS_Q, STARTS_K)]
    out, lse = mfa.flash_attn_varlen_func(*tensors, 26, 35, causal=True, return_attn_probs=True)
    expected, expected_lse = call(operands, causal=True, return_attn_probs=True)
    assert isinstance(out, torch.Tensor)
    assert isinstance(lse, torch.Tensor)
    assert np.array_equal(out.numpy(), expected)
    assert np.array_equal(lse.numpy(), expected_lse)


def test_gradients(operands, rng):
    dout = rng.standard_normal((42, 4, 24)).astype(np.float32)
    out, lse = call(operands, causal=True, return_attn_probs=True)
    gradients = mfa.attention_backward(dout, *operands, out, lse, **LISTS, causal=True)
    assert [gradient.shape for gradient in gradients[:3]] == [x.shape for x in operands]
    reference = checks.expected_gradients(dout, *operands, **LISTS, causal=True)
    checks.assert_gradients_match(gradients, reference)


@pytest.mark.parametrize("array", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_longest_lengths_may_be_arrays_of_no_axes(operands, array):
    """As `lengths.max()` is."""
    assert checks.same_bits(call(operands, array(26), array(35)), call(operands))
    with pytest.raises(TypeError, match=r"^max_seqlen_q: "):
        call(operands, array(26.0))

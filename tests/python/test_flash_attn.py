"""mfa.flash_attn_func is FlashAttention-3's interface."""

import numpy as np
import pytest
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

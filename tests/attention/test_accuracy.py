"""How near float64 the answers are: to a fixed figure, and beside PyTorch at the same precision."""

import functools

import numpy as np
import pytest
from support import checks, oracle
from support.tolerance import relative_error
from support.tools import require_module

import mfa

LAYOUT = {"layout": "bhsd"}
SHAPES = [
    {"heads": 2, "query_length": 512, "key_length": 512, "head_dim": 64},
    {"heads": 2, "query_length": 200, "key_length": 333, "head_dim": 128},
    {"heads": 4, "query_length": 128, "key_length": 128, "head_dim": 40},
    {"heads": 8, "kv_heads": 2, "query_length": 1, "key_length": 3000, "head_dim": 128},
    {"batch": 2, "heads": 3, "query_length": 77, "key_length": 77, "head_dim": 64},
    # Many heads: enough tasks that keys are not split, so that one row's sums are long.
    {"heads": 32, "query_length": 16, "key_length": 2048, "head_dim": 32},
]


@pytest.fixture(scope="module")
def seeds(backend):
    return range(3) if backend.is_emulated else range(9)


def test_float32_over_4096_keys(context, rng):
    query, key, value = checks.operands(rng, query_length=4096, key_length=4096, head_dim=64, **LAYOUT)
    out, logsumexp = mfa.attention(query, key, value, return_lse=True, context=context, **LAYOUT)
    expected, expected_logsumexp = oracle.attention(query, key, value)
    assert relative_error(out, expected) < 2e-6
    assert relative_error(logsumexp, expected_logsumexp) < 1e-6


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_no_less_accurate_than_torch(backend, context, seeds, dtype, shape, causal):
    """Median over seeds at most 1.1 times PyTorch's error (GPU: 1.25); none above twice that plus one ulp."""
    torch = require_module("torch", "pip install torch")
    if causal and shape["query_length"] == 1:
        causal = False  # top-left, one row would see one key
    ours, torchs = [], []
    for seed in seeds:
        operands = checks.operands(np.random.default_rng(seed), **shape, dtype=dtype, **LAYOUT)
        expected, _ = oracle.attention(*(x.astype(np.float64) for x in operands), causal=causal)
        out = mfa.attention(*operands, causal="top-left" if causal else None, context=context, **LAYOUT)
        tensors = as_torch(torch, operands)
        theirs = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal, enable_gqa=True)
        ours.append(relative_error(out, expected))
        torchs.append(relative_error(theirs.double().numpy(), expected))
    assert_no_less_accurate(backend, ours, torchs, dtype)


def as_torch(torch, arrays):
    return [torch.from_numpy(x.astype(np.float32)).to(getattr(torch, x.dtype.name)) for x in arrays]


def assert_no_less_accurate(backend, ours, torchs, dtype):
    # A GPU adds up a product of matrices in an order of its own, which the emulator only stands in for.
    limit = 1.1 if backend.is_cpu else 1.25
    assert np.median(ours) <= limit * np.median(torchs)
    ulp = 2 * checks.tolerance.unit_roundoff(dtype)
    assert all(our <= 2 * their + ulp for our, their in zip(ours, torchs, strict=True))


@functools.cache
def torch_gradient_runs(torch, seeds, dtype, shape, causal):
    """For each seed: dout and operands, exact gradients, and PyTorch's errors in dq, dk and dv."""
    runs = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        operands = checks.operands_and_dout(rng, **dict(shape), dtype=dtype, **LAYOUT)
        tensors = as_torch(torch, operands)
        # In float64 PyTorch equals the oracle, as test_oracle.py shows, and is faster.
        exact = torch_gradients(torch, *(x.double() for x in tensors), causal)
        theirs = torch_gradients(torch, *tensors, causal)
        runs.append((operands, exact, relative_errors(theirs, exact)))
    return runs


def torch_gradients(torch, dout, query, key, value, causal):
    inputs = [x.detach().requires_grad_() for x in (query, key, value)]
    out = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal, enable_gqa=True)
    out.backward(dout)
    return [x.grad.double().numpy() for x in inputs]


def relative_errors(gradients, exact):
    return [relative_error(x, y) for x, y in zip(gradients, exact, strict=True)]


GRADIENT_SHAPES = [
    ({"query_length": 256, "key_length": 256, "head_dim": 64}, False),
    ({"query_length": 256, "key_length": 256, "head_dim": 64}, True),
    ({"query_length": 100, "key_length": 333, "head_dim": 128}, False),
    ({"heads": 4, "kv_heads": 2, "query_length": 64, "key_length": 64, "head_dim": 40}, True),
    ({"query_length": 512, "key_length": 512, "head_dim": 32}, False),
]


@pytest.mark.parametrize(("shape", "causal"), GRADIENT_SHAPES, ids=range(len(GRADIENT_SHAPES)))
@pytest.mark.parametrize("dtype", checks.DTYPES, ids=str)
def test_gradients_no_less_accurate_than_torchs(backend, context, seeds, dtype, shape, causal):
    torch = require_module("torch", "pip install torch")
    runs = torch_gradient_runs(torch, seeds, dtype, tuple(shape.items()), causal)
    options = {"causal": "top-left" if causal else None, **LAYOUT}
    ours = [
        relative_errors(checks.backward(context, *operands, **options)[:3], exact)
        for operands, exact, _ in runs
    ]
    torchs = [errors for _, _, errors in runs]
    for our, their in zip(np.transpose(ours), np.transpose(torchs), strict=True):  # dq, dk, dv
        assert_no_less_accurate(backend, our, their, dtype)

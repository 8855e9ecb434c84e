"""PyTorch's samples of scaled_dot_product_attention, and more: results and gradients as exact as there."""

import functools

import pytest
import torch
import torch.nn.functional as F

import mfa

TINY = 1e-7  # where a gradient is 0, of which no rounding is a part
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@functools.cache
def samples(dtype):
    """(operands, keywords) of PyTorch's samples, whose tensors require grad where theirs do."""
    from torch.testing._internal.common_methods_invocations import op_db  # takes seconds

    (info,) = [one for one in op_db if one.name == "nn.functional.scaled_dot_product_attention"]
    torch.manual_seed(0)
    return [
        ([sample.input, *sample.args], sample.kwargs)
        for sample in info.sample_inputs("cpu", dtype, requires_grad=True)
    ]


def outcome(function, operands, keywords, dtype=None):
    """The result, and gradients of all tensors, computed in `dtype`."""
    tensors, mask = list(operands), keywords.get("attn_mask")
    if isinstance(mask, torch.Tensor):
        tensors.append(mask)
    given = [
        x.detach().to(dtype if x.is_floating_point() else None).requires_grad_(x.requires_grad)
        for x in tensors
    ]
    if isinstance(mask, torch.Tensor):
        keywords = keywords | {"attn_mask": given[-1]}
    out = function(*given[:3], **keywords)
    wanted = [x for x in given if x.requires_grad]
    torch.manual_seed(1)
    gradients = torch.autograd.grad(out, wanted, torch.randn(out.shape, dtype=torch.float64).to(out.dtype))
    return [x.detach().double() for x in (out, *gradients)]


def of_torch(query, key, value, **keywords):
    """PyTorch's, with the four axes that its fused kernel wants; with fewer it keeps all weights."""
    arrays = query, key, value
    ndim = max(array.ndim for array in arrays)
    arrays = [array[(None,) * (4 - array.ndim)] for array in arrays]
    if not keywords.get("enable_gqa"):
        batch, heads = torch.broadcast_shapes(*(array.shape[:2] for array in arrays))
        arrays = [array.expand(batch, heads, *array.shape[2:]) for array in arrays]
    out = F.scaled_dot_product_attention(*arrays, **keywords)
    return out.reshape(out.shape[4 - ndim :])


def require_no_less_exact(operands, keywords):
    """Errors are at most twice PyTorch's beside one rounding: of a result, and of a score in float32."""
    dtype = operands[0].dtype
    exact = outcome(of_torch, operands, keywords, torch.float64)
    ours = outcome(mfa.scaled_dot_product_attention, operands, keywords, dtype)
    theirs = outcome(of_torch, operands, keywords, dtype)
    query, key = (x.detach().double().norm(dim=-1) for x in operands[:2])
    largest = query.max() * key.max() / operands[0].shape[-1] ** 0.5 if query.numel() and key.numel() else 0
    rounding = torch.finfo(dtype).eps + torch.finfo(torch.float32).eps * largest
    for expected, one, other in zip(exact, ours, theirs, strict=True):
        assert one.shape == expected.shape
        if expected.numel():
            error, allowed = ((x - expected).abs().max().item() for x in (one, other))
            assert error <= 2 * allowed + rounding * expected.abs().max().item() + TINY


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_of_pytorch(dtype):
    exact = [sample for sample in samples(dtype) if not sample[1].get("dropout_p")]
    assert len(exact) >= 13
    for operands, keywords in exact:
        require_no_less_exact(operands, keywords)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples_of_pytorch_with_dropout(dtype):
    """Other weights are dropped than PyTorch drops: what is left is the result, on average."""
    dropped = [sample for sample in samples(dtype) if sample[1].get("dropout_p")]
    assert len(dropped) >= 12
    for operands, keywords in dropped:
        operands = [x.detach().float() for x in operands]
        draws = torch.stack(
            [mfa.scaled_dot_product_attention(*operands, **keywords) for _ in range(200)]
        ).double()
        assert draws.std(0).max() > 0
        expected = F.scaled_dot_product_attention(*operands, **keywords | {"dropout_p": 0.0})
        assert ((draws.mean(0) - expected).abs() <= 6 * draws.std(0) / 200**0.5 + 1e-6).all()


def test_float64_is_refused_by_name():
    operands, keywords = samples(torch.float64)[0]
    with pytest.raises(TypeError, match=r"^query: dtype float64, expected float32, float16 or bfloat16"):
        mfa.scaled_dot_product_attention(*operands, **keywords)


def operands_of(dtype, query=(2, 4, 7, 16), key=(2, 4, 9, 16), value=(2, 4, 9, 16)):
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in (query, key, value)]


def bool_mask(*shape):
    mask = torch.rand(shape) < 0.5
    mask[..., 0] = True  # PyTorch has NaN where a row sees nothing
    return mask


def transposed(x):
    return x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()


CASES = {
    "bool mask of keys": lambda d: (operands_of(d), {"attn_mask": bool_mask(1, 9)}),
    "bool mask of rows": lambda d: (operands_of(d), {"attn_mask": bool_mask(7, 9)}),
    "bool mask of heads": lambda d: (operands_of(d), {"attn_mask": bool_mask(4, 1, 9)}),
    "bool mask of batches": lambda d: (operands_of(d), {"attn_mask": bool_mask(2, 1, 7, 9)}),
    "bool mask of all": lambda d: (operands_of(d), {"attn_mask": bool_mask(2, 4, 7, 9)}),
    "floating mask": lambda d: (operands_of(d), {"attn_mask": torch.randn(7, 9, dtype=d)}),
    "floating mask with gradients": lambda d: (
        operands_of(d),
        {"attn_mask": torch.randn(2, 1, 7, 9, dtype=d, requires_grad=True)},
    ),
    "grouped heads": lambda d: (operands_of(d, key=(2, 2, 9, 16), value=(2, 2, 9, 16)), {"enable_gqa": True}),
    "one head for all": lambda d: (
        operands_of(d, key=(2, 1, 9, 16), value=(2, 1, 9, 16)),
        {"enable_gqa": True},
    ),
    "broadcast batch": lambda d: (operands_of(d, query=(1, 4, 7, 16)), {}),
    "broadcast heads": lambda d: (operands_of(d, key=(2, 1, 9, 16), value=(1, 4, 9, 16)), {}),
    "values of another size": lambda d: (operands_of(d, value=(2, 4, 9, 5)), {"is_causal": True}),
    "odd sizes": lambda d: (operands_of(d, (1, 1, 33, 7), (1, 1, 65, 7), (1, 1, 65, 7)), {"scale": 0.7}),
    "more rows than keys": lambda d: (operands_of(d, query=(2, 4, 11, 16)), {"is_causal": True}),
    "one row": lambda d: (operands_of(d, query=(2, 4, 1, 16)), {}),
    "one key": lambda d: (operands_of(d, key=(2, 4, 1, 16), value=(2, 4, 1, 16)), {}),
    "strides": lambda d: ([transposed(x) for x in operands_of(d)], {"is_causal": True}),
    "columns apart": lambda d: (
        [x.detach().mT.contiguous().mT.requires_grad_() for x in operands_of(d)],
        {"attn_mask": bool_mask(9, 7).mT},
    ),
    "no batch": lambda d: (operands_of(d, (0, 4, 7, 16), (0, 4, 9, 16), (0, 4, 9, 16)), {}),
    "no rows": lambda d: (operands_of(d, query=(2, 4, 0, 16)), {}),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_more_cases(case, dtype):
    torch.manual_seed(3)
    require_no_less_exact(*CASES[case](dtype))

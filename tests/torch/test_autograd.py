"""Gradients that torch's autograd asks mfa for."""

import pytest
import torch
import torch.nn.functional as F

import mfa
import mfa.torch


@pytest.fixture
def tensors():
    torch.manual_seed(1)
    return [torch.randn(2, 4, 5, 8, requires_grad=True) for _ in range(3)]


def gradients_of(function, tensors):
    for tensor in tensors:
        tensor.grad = None
    result = function(*tensors)
    result.backward(torch.ones_like(result) + result.detach())
    return [tensor.grad for tensor in tensors]


def test_sdpa_has_the_gradients_of_torch(tensors):
    expected = gradients_of(F.scaled_dot_product_attention, tensors)
    actual = gradients_of(mfa.scaled_dot_product_attention, tensors)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_floating_mask_and_sinks_have_gradients(tensors):
    mask, sinks = torch.randn(4, 1, 5, requires_grad=True), torch.randn(4, requires_grad=True)
    result = mfa.torch.attention(*tensors, layout="bhsd", mask=mask, sinks=sinks)
    result.sum().backward()
    assert mask.grad.shape == mask.shape
    assert sinks.grad.abs().sum() > 0


def test_result_lies_as_query_does(tensors):
    rows_first = tensors[0].detach().transpose(1, 2).contiguous().transpose(1, 2)
    result = mfa.scaled_dot_product_attention(rows_first, *tensors[1:])
    assert result.transpose(1, 2).is_contiguous()
    assert mfa.scaled_dot_product_attention(*tensors).is_contiguous()

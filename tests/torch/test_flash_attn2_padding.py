"""mfa.flash_attn.bert_padding packs rows that count, and gradients come back to where these were."""

import pytest
import torch

from mfa.flash_attn import flash_attn_func, flash_attn_varlen_func
from mfa.flash_attn.bert_padding import (
    index_first_axis,
    index_first_axis_residual,
    index_put_first_axis,
    pad_input,
    unpad_input,
    unpad_input_for_concatenated_sequences,
)

MASK = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64], ids=str)
def test_unpad_and_pad(dtype):
    states = torch.arange(24.0).reshape(3, 4, 2).requires_grad_()
    rows, indices, starts, longest, used = unpad_input(states, MASK.to(dtype))
    assert indices.tolist() == [0, 1, 2, 9, 10, 11]
    assert torch.equal(rows, states.reshape(12, 2)[indices])
    assert starts.tolist() == [0, 3, 3, 6]
    assert starts.dtype == used.dtype == torch.int32
    assert used.tolist() == [3, 0, 3]
    assert (longest, type(longest)) == (3, int)
    padded = pad_input(rows, indices, 3, 4)
    assert torch.equal(padded, states * MASK[..., None])
    padded.backward(torch.ones(3, 4, 2))
    assert torch.equal(states.grad, MASK[..., None].expand(3, 4, 2).float())


def test_rows_that_are_kept_without_being_used():
    unused = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    rows, indices, starts, longest, used = unpad_input(torch.arange(12).reshape(3, 4), MASK, unused)
    assert rows.tolist() == indices.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert starts.tolist() == [0, 4, 4, 8]
    assert longest == 4
    assert used.tolist() == [3, 0, 3]


def test_several_sequences_in_a_row():
    lengths = torch.tensor([[2, 3, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]])
    rows, indices, starts, longest = unpad_input_for_concatenated_sequences(
        torch.arange(24).reshape(4, 6), lengths
    )
    assert rows.tolist() == indices.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 18, 19, 20]
    assert starts.tolist() == [0, 2, 5, 11, 12, 13, 14]
    assert starts.dtype == torch.int32
    assert (longest, type(longest)) == (6, int)


def test_nothing_to_pack():
    rows, _, starts, longest, _ = unpad_input(torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool))
    assert rows.shape == (0, 4)
    assert starts.tolist() == [0, 0, 0]
    assert longest == 0
    rows, indices, starts, longest = unpad_input_for_concatenated_sequences(
        torch.ones(2, 3, 4), torch.zeros(2, 3, dtype=torch.int32)
    )
    assert (len(rows), starts.tolist(), longest) == (0, [0], 0)
    assert not pad_input(rows, indices, 2, 3).any()
    assert unpad_input(torch.ones(0, 3, 4), torch.ones(0, 3))[3] == 0


def test_gradients_of_indexing():
    rows = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([4, 0, 2])
    assert torch.equal(index_first_axis(rows, indices), rows[indices])
    placed = index_put_first_axis(rows[:3], indices, 6)
    assert torch.equal(placed[indices], rows[:3])
    assert not placed[[1, 3, 5]].any()
    taken, residual = index_first_axis_residual(rows, indices)
    assert torch.equal(residual, rows)
    (gradient,) = torch.autograd.grad([taken.sum(), (2 * residual).sum()], rows)
    assert gradient[:, 0].tolist() == [3, 2, 3, 2, 3]
    for function in (
        lambda x: index_first_axis(x, indices),
        lambda x: index_put_first_axis(x[:3], indices, 6),
        lambda x: index_first_axis_residual(x, indices),
    ):
        assert torch.autograd.gradcheck(function, rows)


def test_attention_without_padding():
    """What models do with it: results and gradients of rows that count are those of each sequence alone."""
    qkv = torch.randn(3, 4, 3, 2, 8, requires_grad=True)
    rows, indices, starts, longest, _ = unpad_input(qkv, MASK)
    packed = flash_attn_varlen_func(*rows.unbind(1), starts, starts, longest, longest, causal=True)
    out = pad_input(packed, indices, 3, 4)
    alone = flash_attn_func(*qkv[2:, 1:].unbind(2), causal=True)
    torch.testing.assert_close(out[2:, 1:], alone)
    dout = torch.randn_like(out)
    (dqkv,) = torch.autograd.grad(out, qkv, dout)
    (expected,) = torch.autograd.grad(alone, qkv, dout[2:, 1:])
    torch.testing.assert_close(dqkv[2], expected[2])
    assert not dqkv[MASK == 0].any()

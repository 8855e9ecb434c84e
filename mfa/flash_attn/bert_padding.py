"""FlashAttention-2's module of that name: rows that count are packed one behind the other, and back again.

All functions are made of torch's, so gradients of any order pass through them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "index_first_axis",
    "index_first_axis_residual",
    "index_put_first_axis",
    "pad_input",
    "unpad_input",
    "unpad_input_for_concatenated_sequences",
]


def index_first_axis(input: Tensor, indices: Tensor) -> Tensor:
    """Rows of `input`.

    Parameters
    ----------
    input : tensor (rows, ...)
    indices : tensor (count) of int32 or int64

    Returns
    -------
    tensor (count, ...)
    """
    return input.index_select(0, indices)


def index_first_axis_residual(input: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of `input`, and `input` itself.

    Parameters
    ----------
    input : tensor (rows, ...)
    indices : tensor (count) of int32 or int64

    Returns
    -------
    tensor (count, ...), tensor (rows, ...)
    """
    return index_first_axis(input, indices), input


def index_put_first_axis(values: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """The inverse of `index_first_axis`.

    Parameters
    ----------
    values : tensor (count, ...)
    indices : tensor (count) of int64
        No number twice.
    first_axis_dim : int

    Returns
    -------
    tensor (first_axis_dim, ...)
        0 in rows that `indices` does not name.
    """
    return values.new_zeros(first_axis_dim, *values.shape[1:]).index_copy(0, indices, values)


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """Rows of all sequences without padding, and the lists that say where they are.

    Parameters
    ----------
    hidden_states : tensor (B, N, ...)
    attention_mask : tensor (B, N), bool or integer
        1 is a row that counts, 0 padding.
    unused_mask : tensor (B, N), bool or integer, or None, default None
        1 is a row that is kept without counting as used.

    Returns
    -------
    hidden_states : tensor (T, ...)
    indices : tensor (T) of int64
        Places in ``B * N``.
    cu_seqlens : tensor (B + 1) of int32
    max_seqlen : int
    seqused : tensor (B) of int32
        Rows of each sequence that `attention_mask` has.
    """
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = kept.sum(-1, dtype=torch.int32)
    indices = kept.flatten().nonzero().flatten()
    return (
        index_first_axis(hidden_states.flatten(0, 1), indices),
        indices,
        starts(lengths),
        longest(lengths),
        attention_mask.sum(-1, dtype=torch.int32),
    )


def unpad_input_for_concatenated_sequences(
    hidden_states: Tensor, attention_mask_in_length: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """`unpad_input` of rows that each hold several sequences, one behind the other.

    Parameters
    ----------
    hidden_states : tensor (B, N, ...)
    attention_mask_in_length : tensor (B, N) of an integer dtype
        A row begins with the lengths of its sequences; the rest of it is 0. ``[[2, 3, 0, 0, 0, 0]]`` says
        that six places hold sequences of two and three, and one of padding.

    Returns
    -------
    hidden_states : tensor (T, ...)
    indices : tensor (T) of int64
    cu_seqlens : tensor (sequences + 1) of int32
    max_seqlen : int
    """
    used = attention_mask_in_length.sum(-1, keepdim=True)
    places = torch.arange(attention_mask_in_length.shape[-1], device=used.device)
    indices = (places < used).flatten().nonzero().flatten()
    lengths = attention_mask_in_length[attention_mask_in_length != 0]
    return (
        index_first_axis(hidden_states.flatten(0, 1), indices),
        indices,
        starts(lengths),
        longest(lengths),
    )


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """The inverse of `unpad_input`.

    Parameters
    ----------
    hidden_states : tensor (T, ...)
    indices : tensor (T) of int64
        What `unpad_input` returned.
    batch, seqlen : int

    Returns
    -------
    tensor (batch, seqlen, ...)
        0 in padding.
    """
    return index_put_first_axis(hidden_states, indices, batch * seqlen).unflatten(0, (batch, seqlen))


def starts(lengths):
    return F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def longest(lengths):
    return lengths.max().item() if len(lengths) else 0

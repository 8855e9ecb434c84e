"""What goes before attention: scores to choose keys by, and rotations that spread outliers."""

import torch


def sparse_indexer_scores(q: torch.Tensor, k: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """``scale * q @ k.T`` of each batch and head.

    Parameters
    ----------
    q : Tensor (B, H, N, D)
    k : Tensor (B, H, S, D), dtype as q
    scale : float, default 1.0

    Returns
    -------
    Tensor (B, H, N, S), dtype as q

    Raises
    ------
    ValueError
        Shapes do not go together.
    """
    if q.dim() != 4 or k.dim() != 4 or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"q, k: shapes {tuple(q.shape)} and {tuple(k.shape)}, expected (B, H, N, D) and (B, H, S, D)"
        )
    return torch.matmul(q * scale, k.mT)


def hadamard_rotate(tensor: torch.Tensor, block_size: int) -> None:
    """Turn each run of `block_size` elements by a Hadamard matrix, in place.

    Attention between queries and keys of that size does not change if both are turned, and outliers are
    Attention between queries and keys of that size does not change if both are turned, and outliers are
    spread before they are quantised. Turning twice changes nothing but the last bits. Gradients are turned
    likewise.

    Parameters
    ----------
    tensor : Tensor, floating and contiguous
    block_size : int
        A power of two that divides the number of elements.

    Raises
    ------
    ValueError
        Of another size, or a tensor that is not contiguous.
    """
    if block_size < 1 or block_size & (block_size - 1) or tensor.numel() % block_size:
        raise ValueError(
            f"block_size: {block_size}, expected a power of two that divides {tensor.numel()} elements"
        )
    if not tensor.is_contiguous():
        raise ValueError(f"tensor: strides {tensor.stride()}, expected a contiguous one")
    turned = tensor.float().reshape(-1, 1, block_size)
    half = block_size
    while half > 1:
        half //= 2
        first, second = turned.reshape(-1, 2, half).unbind(1)
        turned = torch.stack((first + second, first - second), 1)
    tensor.copy_((turned * block_size**-0.5).reshape(tensor.shape))

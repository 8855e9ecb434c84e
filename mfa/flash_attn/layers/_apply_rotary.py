"""Rotary position embeddings (Su et al., 2021) of tensors.

All functions are made of torch's, so gradients of any order pass through them, those of cos and sin too.
"""

import torch
from torch import Tensor

from mfa._messages import shown


def rotate_half(x: Tensor, interleaved: bool = False) -> Tensor:
    """Each pair (a, b) of the last axis as (-b, a).

    Parameters
    ----------
    x : tensor (..., R)
    interleaved : bool, default False
        Pairs are elements 2c and 2c + 1, else c and ``c + R / 2``.

    Returns
    -------
    tensor (..., R)
    """
    a, b = _pairs(x, interleaved)
    return _joined(-b, a, interleaved)


def apply_rotary_emb_torch(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Pairs of elements turned by the angle of their row, in the dtype that x and the tables promote to.

    Parameters
    ----------
    x : tensor (B, N, H, D)
    cos, sin : tensor (N, R / 2) or (B, N, R / 2)
        R is even and at most D; the other elements stay as they are.
    interleaved : bool, default False
        Pairs are elements 2c and 2c + 1, else c and ``c + R / 2``.

    Returns
    -------
    tensor (B, N, H, D)
    """
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    turned = 2 * cos.shape[-1]
    a, b = _pairs(x[..., :turned], interleaved)
    result = _joined(a * cos - b * sin, a * sin + b * cos, interleaved)
    return torch.cat([result, x[..., turned:]], -1) if turned < x.shape[-1] else result


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Rotary embeddings of queries or keys, computed in float32, or in float64 if x is.

    Parameters
    ----------
    x : tensor (B, N, H, D), or (T, H, D) with cu_seqlens
    cos, sin : tensor (positions, R / 2)
        R is even and at most D; the other elements stay as they are.
    interleaved : bool, default False
        Pairs are elements 2c and 2c + 1, else c and ``c + R / 2``.
    inplace : bool, default False
        Write into `x` and return it, as far as autograd lets any function do so: not into a leaf that
        requires grad.
    seqlen_offsets : int or tensor (B) of int32 or int64, default 0
        Position of each sequence's first row.
    cu_seqlens : tensor (B + 1) of int32, or None, default None
        Sequences are packed: b has rows ``cu_seqlens[b]`` up to ``cu_seqlens[b + 1]``. Rows of none stay as
        they are.
    max_seqlen
        Accepted and ignored.

    Returns
    -------
    tensor, shape and dtype as x

    Raises
    ------
    ValueError
        Shapes do not fit, or a position is outside of the tables; the message names the argument.

    Notes
    -----
    FlashAttention-2 leaves rows as they are whose position is outside of the tables.
    """
    _require_tables(x, cos, sin, 4 if cu_seqlens is None else 3)
    rows = x.shape[1] if cu_seqlens is None else int(cu_seqlens[-1])
    places = _places(x, rows, len(cos), seqlen_offsets, cu_seqlens)
    whole = x if cu_seqlens is None else x[:rows]
    turned = 2 * cos.shape[1]
    part = whole[..., :turned]
    dtype = torch.promote_types(x.dtype, torch.float32)
    # The gradients of tables need what is written over.
    copy = inplace and (cos.requires_grad or sin.requires_grad)
    result = apply_rotary_emb_torch(
        part.to(dtype, copy=copy), cos[places].to(dtype), sin[places].to(dtype), interleaved
    )
    if inplace:
        part.copy_(result)
        return x
    result = result.to(x.dtype)
    if turned < x.shape[-1]:
        result = torch.cat([result, whole[..., turned:]], -1)
    return result if len(whole) == len(x) else torch.cat([result, x[rows:]])


def apply_rotary_emb_qkv_(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    cos_k: Tensor | None = None,
    sin_k: Tensor | None = None,
    interleaved: bool = False,
    seqlen_offsets: int | Tensor = 0,
    num_heads_q: int | None = None,
) -> Tensor:
    """Rotary embeddings of the queries and keys in `qkv`, in place.

    Parameters
    ----------
    qkv : tensor (B, N, 3, H, D) or (B, N, H + 2 * Hkv, D)
        With 4 axes, the heads of queries come first, then those of keys and of values.
    cos, sin : tensor (positions, R / 2)
    cos_k, sin_k : tensor (positions, R / 2), or None, default None
        Tables of keys; None is those of queries.
    interleaved, seqlen_offsets
        As for `apply_rotary_emb`.
    num_heads_q : int or None, default None
        H, where qkv has 4 axes.

    Returns
    -------
    tensor
        `qkv` itself.

    Raises
    ------
    ValueError
        Shapes do not fit, or a position is outside of the tables; the message names the argument.
    """
    if qkv.ndim == 5:
        if qkv.shape[2] != 3:
            raise ValueError(
                f"qkv: shape {shown(tuple(qkv.shape))}, expected (batch, rows, 3, heads, head_dim)"
            )
        q, k = qkv[:, :, 0], qkv[:, :, 1]
    elif qkv.ndim == 4:
        if num_heads_q is None:
            raise ValueError("num_heads_q: None, expected the number of heads of q, as qkv has 4 dimensions")
        kv_heads, odd = divmod(qkv.shape[2] - num_heads_q, 2)
        if kv_heads < 1 or odd or num_heads_q < 1:
            expected = f"to leave as many of the {qkv.shape[2]} heads for k as for v"
            raise ValueError(f"num_heads_q: {num_heads_q}, expected {expected}")
        q, k = qkv[:, :, :num_heads_q], qkv[:, :, num_heads_q : num_heads_q + kv_heads]
    else:
        raise ValueError(f"qkv: {qkv.ndim} dimensions, expected 4 or 5")
    cos_k, sin_k = cos if cos_k is None else cos_k, sin if sin_k is None else sin_k
    apply_rotary_emb(q, cos, sin, interleaved, True, seqlen_offsets)
    apply_rotary_emb(k, cos_k, sin_k, interleaved, True, seqlen_offsets)
    return qkv


def apply_rotary_emb_kv_(
    kv: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False, seqlen_offsets: int | Tensor = 0
) -> Tensor:
    """Rotary embeddings of the keys in `kv`, in place.

    Parameters
    ----------
    kv : tensor (B, N, 2, Hkv, D)
    cos, sin, interleaved, seqlen_offsets
        As for `apply_rotary_emb`.

    Returns
    -------
    tensor
        `kv` itself.

    Raises
    ------
    ValueError
        Shapes do not fit, or a position is outside of the tables; the message names the argument.
    """
    if kv.ndim != 5 or kv.shape[2] != 2:
        raise ValueError(f"kv: shape {shown(tuple(kv.shape))}, expected (batch, rows, 2, heads, head_dim)")
    apply_rotary_emb(kv[:, :, 0], cos, sin, interleaved, True, seqlen_offsets)
    return kv


class ApplyRotaryEmb:
    """`apply_rotary_emb`, for code that calls FlashAttention-2's autograd functions."""

    apply = staticmethod(apply_rotary_emb)


class ApplyRotaryEmbQKV_:
    """`apply_rotary_emb_qkv_`, likewise."""

    apply = staticmethod(apply_rotary_emb_qkv_)


class ApplyRotaryEmbKV_:
    """`apply_rotary_emb_kv_`, likewise."""

    apply = staticmethod(apply_rotary_emb_kv_)


def _pairs(x, interleaved):
    """The first and the second elements of all pairs."""
    return (x[..., ::2], x[..., 1::2]) if interleaved else x.chunk(2, -1)


def _joined(first, second, interleaved):
    """The inverse of `_pairs`."""
    return torch.stack([first, second], -1).flatten(-2) if interleaved else torch.cat([first, second], -1)


def _places(x, rows, count, seqlen_offsets, cu_seqlens):
    """Which of `count` rows of the tables the first `rows` rows of x have: a slice, or indices of each."""
    if cu_seqlens is None and not isinstance(seqlen_offsets, Tensor):
        _require_places(seqlen_offsets, seqlen_offsets + rows - 1, count)
        return slice(seqlen_offsets, seqlen_offsets + rows)
    places = torch.arange(rows, device=x.device)
    batch = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
    if cu_seqlens is not None:
        if rows > len(x):
            raise ValueError(f"cu_seqlens: {rows} rows, expected at most {len(x)} as x has")
        sequence = torch.bucketize(places, cu_seqlens[1:], right=True)
        places = places - cu_seqlens[sequence]
    if isinstance(seqlen_offsets, Tensor):
        if seqlen_offsets.shape != (batch,):
            actual = shown(tuple(seqlen_offsets.shape))
            raise ValueError(f"seqlen_offsets: shape {actual}, expected ({batch},) or an integer")
        offsets = seqlen_offsets.long()
        places = places + (offsets[:, None] if cu_seqlens is None else offsets[sequence])
    else:
        places = places + seqlen_offsets
    # Looking at numbers would break a compiled graph in two; indexing fails there too, if less clearly.
    if places.numel() and not torch.compiler.is_compiling():
        _require_places(int(places.min()), int(places.max()), count)
    return places


def _require_places(first, last, count):
    if first < 0 or last >= count:
        position = first if first < 0 else last
        raise ValueError(f"seqlen_offsets: position {position}, expected 0 to {count - 1}, a row of cos")


def _require_tables(x, cos, sin, ndim):
    if x.ndim != ndim:
        raise ValueError(f"x: {x.ndim} dimensions, expected {ndim}")
    if cos.ndim != 2:
        raise ValueError(f"cos: {cos.ndim} dimensions, expected 2")
    if sin.shape != cos.shape:
        raise ValueError(f"sin: shape {shown(tuple(sin.shape))}, expected {shown(tuple(cos.shape))} as cos")
    if 2 * cos.shape[1] > x.shape[-1]:
        raise ValueError(
            f"cos: {cos.shape[1]} columns, expected at most {x.shape[-1] // 2}, half of head_dim"
        )

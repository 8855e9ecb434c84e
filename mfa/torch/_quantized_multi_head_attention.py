"""mfa.torch.quantized.QuantizedMultiHeadAttention: nn.MultiheadAttention to quantised keys and values."""

from typing import Any, Literal

import torch
from torch.nn.functional import linear, pad

from mfa import _keywords
from mfa._messages import shown
from mfa._quantized_config import QuantizedConfig
from mfa.torch._quantized_flash_attention import QuantizedFlashAttention


class QuantizedMultiHeadAttention(torch.nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose keys and values are quantised after their projection.

    Its parameters have the names and shapes of torch's, so that the state_dict of one fits the other.

    Parameters
    ----------
    embed_dim, num_heads : int
        num_heads divides embed_dim.
    dropout : float, default 0.0
        Probability that a softmax weight is dropped, in training mode only.
    bias, add_bias_kv, add_zero_attn, kdim, vdim, device, dtype
        As for `torch.nn.MultiheadAttention`.
    batch_first : bool, default False
        As there, so sequences come first unless it is True: (N, B, E). No shape tells which is meant.
    query_precision : {"fp16", "bf16", "fp32"} or None, default None
    key_precision, value_precision : {"int8", "uint8", "int4", "uint4", "fp16", ...}, default "int8"
        As in `mfa.quantized.QuantizedConfig`.
    backend : {"auto", "cpu", "metal"}, default "auto"
        What computes attention; `device` is torch's word for where parameters lie.
    config : dict or None, default None
        What else `mfa.quantized.QuantizedConfig` has, but for what the calls say themselves.

    Raises
    ------
    TypeError, ValueError, mfa.MFAError
        As `QuantizedFlashAttention`.

    Notes
    -----
    Trains by the straight-through estimator. Also takes the place of `self_attn` in torch's
    TransformerEncoderLayer and TransformerDecoderLayer, of which no fast path then goes round it.

    Examples
    --------
    >>> import torch
    >>> from mfa.torch.quantized import QuantizedMultiHeadAttention
    >>> attention = QuantizedMultiHeadAttention(32, 4, batch_first=True, value_precision="int4")
    >>> x = torch.ones(2, 5, 32)
    >>> attention(x, x, x).shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        query_precision: str | None = None,
        key_precision: str = "int8",
        value_precision: str = "int8",
        backend: Literal["auto", "cpu", "metal"] = "auto",
        config: QuantizedConfig | None = None,
    ) -> None:
        for name, size in (("embed_dim", embed_dim), ("num_heads", num_heads)):
            if _keywords.integer(size, name) < 1:
                raise ValueError(f"{name}: {size}, expected at least 1")
        if not 0 <= _keywords.real(dropout, "dropout") < 1:
            raise ValueError(f"dropout: {shown(dropout)}, expected at least 0 and less than 1")
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim: {embed_dim}, expected a multiple of num_heads, {num_heads}")
        super().__init__(
            embed_dim,
            num_heads,
            dropout,
            bias,
            add_bias_kv,
            add_zero_attn,
            kdim,
            vdim,
            batch_first,
            device,
            dtype,
        )
        # What torch's layers ask before they take a fast path of their own, past forward().
        self._qkv_same_embed_dim = False
        self.attention = QuantizedFlashAttention(
            query_precision, key_precision, value_precision, device=backend, config=config
        )

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool | None = None,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, None]:
        """Attention of projections, projected.

        Parameters
        ----------
        query : Tensor (N, B, E), or (B, N, E) if batch_first, or (N, E)
        key : Tensor (S, B, kdim), (B, S, kdim) or (S, kdim)
        value : Tensor (S, B, vdim), (B, S, vdim) or (S, vdim)
        key_padding_mask : Tensor (B, S) or (S,), or None, default None
            bool (True = not seen) or floating (added to the scores).
        need_weights : False or None, default None
            False has the result in a tuple before None, as torch has it. True is refused: softmax weights are
            never in memory.
        attn_mask : Tensor (N, S) or (B * num_heads, N, S), or None, default None
            Likewise bool or floating.
        average_attn_weights : bool, default True
            Of no effect, as there are no weights.
        is_causal : bool, default False
            Row i sees keys up to i, whatever `attn_mask` says: torch has it as a hint that this is what
            `attn_mask` comes to. Not without `attn_mask` beside add_bias_kv or add_zero_attn.

        Returns
        -------
        Tensor, shape as query, or (Tensor, None)
            A row that sees no key is attention's 0, projected; torch's is NaN.

        Raises
        ------
        TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
            As `QuantizedFlashAttention`.
        """
        if need_weights is not None and _keywords.flag(need_weights, "need_weights"):
            raise ValueError("need_weights: True, expected False or None, as weights are never in memory")
        is_causal = _keywords.flag(is_causal, "is_causal")
        require_ranks(query, key, value)
        is_batched = query.dim() == 3
        arrays = self.project(query, key, value)
        if not is_batched:
            arrays = [array[None] for array in arrays]
        elif not self.batch_first:
            arrays = [array.transpose(0, 1) for array in arrays]
        query, key, value = self.with_rows_of_its_own(*arrays)
        own_rows = key.shape[1] - arrays[1].shape[1]
        if is_causal and own_rows:
            if attn_mask is None:
                raise ValueError(
                    "is_causal: True, expected False, or attn_mask too, beside add_bias_kv or add_zero_attn"
                )
            is_causal = False
        attn_mask = None if is_causal else attn_mask
        given = (query.shape[0], query.shape[1], key.shape[1] - own_rows)
        mask = combined(
            self.with_heads(attn_mask, *given), padding(key_padding_mask, *given, is_batched), query.dtype
        )
        if mask is not None and own_rows:
            mask = pad(mask, (0, own_rows), value=mask.dtype == torch.bool)
        arrays = [array.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for array in (query, key, value)]
        keywords = {
            "causal": "top-left" if is_causal else None,
            "softmax_scale": None,
            "dropout_p": self.dropout if self.training else 0.0,
            "mask": mask,
        }
        result = self.attention.attention.attend(
            *arrays, keywords, grouped=False, recorded=self.attention.records(*arrays, mask)
        )
        result = result.transpose(1, 2).flatten(2)
        if not is_batched:
            result = result[0]
        elif not self.batch_first:
            result = result.transpose(0, 1)
        result = self.out_proj(result)
        return result if need_weights is None else (result, None)

    def project(self, query, key, value):
        """All three in `embed_dim` columns, each in memory of its own: codes take the place of two."""
        if self.in_proj_weight is None:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        else:
            weights = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [linear(*each) for each in zip((query, key, value), weights, biases, strict=True)]

    def with_rows_of_its_own(self, query, key, value):
        """Keys and values with those that belong to the module behind them."""
        rows = []
        if self.bias_k is not None:
            rows.append((self.bias_k, self.bias_v))
        if self.add_zero_attn:
            rows.append((key.new_zeros(1, 1, self.embed_dim),) * 2)
        for row_of_keys, row_of_values in rows:
            key = torch.cat([key, row_of_keys.to(key.dtype).expand(len(key), 1, -1)], 1)
            value = torch.cat([value, row_of_values.to(value.dtype).expand(len(value), 1, -1)], 1)
        return query, key, value

    def with_heads(self, mask, batch, rows, keys):
        """A mask (N, S) or (B * num_heads, N, S) with four axes."""
        if mask is None:
            return None
        shapes = (rows, keys), (batch * self.num_heads, rows, keys)
        if mask.shape not in shapes:
            raise ValueError(f"attn_mask: shape {tuple(mask.shape)}, expected {shapes[0]} or {shapes[1]}")
        return mask[None, None] if mask.dim() == 2 else mask.unflatten(0, (batch, self.num_heads))


def padding(mask, batch, _, keys, is_batched):
    """A mask (B, S) or (S,) with four axes."""
    if mask is None:
        return None
    expected = (batch, keys) if is_batched else (keys,)
    if mask.shape != expected:
        raise ValueError(f"key_padding_mask: shape {tuple(mask.shape)}, expected {expected}")
    return mask.reshape(batch, 1, 1, keys)


def require_ranks(query, key, value):
    for name, array in (("query", query), ("key", key), ("value", value)):
        if not isinstance(array, torch.Tensor):
            raise TypeError(f"{name}: {shown(array)}, expected a tensor")
        if array.dim() not in (2, 3) or array.dim() != query.dim():
            expected = "2 or 3" if array is query else f"{query.dim()} as query has"
            raise ValueError(f"{name}: {array.dim()} dimensions, expected {expected}")


def combined(attn_mask, key_padding_mask, dtype):
    """What attention takes for masks of which True hides: True where both let a key be seen, or their sum."""
    masks = [mask for mask in (attn_mask, key_padding_mask) if mask is not None]
    if not masks:
        return None
    if all(mask.dtype == torch.bool for mask in masks):
        return ~(masks[0] if len(masks) == 1 else masks[0] | masks[1])
    hiding = torch.full((), -torch.inf, dtype=dtype, device=masks[0].device)
    masks = [torch.where(mask, hiding, 0.0) if mask.dtype == torch.bool else mask for mask in masks]
    return sum(masks[1:], masks[0])

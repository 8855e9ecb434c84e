"""Rotary position embeddings as a module, which keeps tables of angles."""

import torch
from torch import Tensor

from mfa.flash_attn.layers._apply_rotary import (
    apply_rotary_emb,
    apply_rotary_emb_kv_,
    apply_rotary_emb_qkv_,
)


class RotaryEmbedding(torch.nn.Module):
    """Rotary embeddings with tables that grow with the longest sequence so far.

    Parameters
    ----------
    dim : int
        R: elements of a head that are turned.
    base : float, default 10000.0
        Pair c turns by ``base ** (-2c / dim)`` from one position to the next.
    interleaved : bool, default False
        As for `apply_rotary_emb`.
    scale_base : float or None, default None
        With a number, queries shrink with their position and keys grow, as in XPos (Sun et al., 2022).
    device : torch.device or None, default None
        Of the buffers.
    """

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        interleaved: bool = False,
        scale_base: float | None = None,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.dim, self.base, self.interleaved, self.scale_base = dim, float(base), interleaved, scale_base
        self.register_buffer("inv_freq", self._compute_inv_freq(device), persistent=False)
        scale = None if scale_base is None else self._compute_scale(device)
        self.register_buffer("scale", scale, persistent=False)
        self._seq_len_cached = 0
        self._cos_cached = self._sin_cached = self._cos_k_cached = self._sin_k_cached = None

    def forward(
        self,
        qkv: Tensor,
        kv: Tensor | None = None,
        seqlen_offset: int | Tensor = 0,
        max_seqlen: int | None = None,
        num_heads_q: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Turn queries and keys in place.

        Parameters
        ----------
        qkv : tensor (B, N, 3, H, D) or (B, N, H + 2 * Hkv, D), or with kv the queries (B, N, H, D)
        kv : tensor (B, N, 2, Hkv, D), or None, default None
        seqlen_offset : int or tensor (B), default 0
            Position of each sequence's first row.
        max_seqlen : int or None, default None
            Positions that there will be. With a tensor as `seqlen_offset`, None is those of the tables as
            they are.
        num_heads_q : int or None, default None
            H, where qkv has 4 axes and kv is None.

        Returns
        -------
        tensor, or two of them with kv
            `qkv` and `kv` themselves.
        """
        if max_seqlen is not None or not isinstance(seqlen_offset, Tensor):
            positions = qkv.shape[1] + seqlen_offset if max_seqlen is None else max_seqlen
            self._update_cos_sin_cache(positions, device=qkv.device, dtype=qkv.dtype)
        if self._cos_cached is None:
            raise ValueError("max_seqlen: None, expected a number, as there are no tables of another call")
        q_tables = self._cos_cached, self._sin_cached
        k_tables = q_tables if self.scale is None else (self._cos_k_cached, self._sin_k_cached)
        if kv is None:
            return apply_rotary_emb_qkv_(
                qkv, *q_tables, *k_tables, self.interleaved, seqlen_offset, num_heads_q
            )
        q = apply_rotary_emb(qkv, *q_tables, self.interleaved, True, seqlen_offset)
        return q, apply_rotary_emb_kv_(kv, *k_tables, self.interleaved, seqlen_offset)

    # Models that derive from this class call what follows by these names.

    def _compute_inv_freq(self, device=None):
        return self.base ** -(torch.arange(0, self.dim, 2, device=device, dtype=torch.float32) / self.dim)

    def _compute_scale(self, device=None):
        pairs = torch.arange(0, self.dim, 2, device=device, dtype=torch.float32)
        return (pairs + 0.4 * self.dim) / (1.4 * self.dim)

    def _update_cos_sin_cache(self, seqlen, device=None, dtype=None):
        """Have tables for at least `seqlen` positions."""
        cached = self._cos_cached
        if (
            cached is not None
            and seqlen <= self._seq_len_cached
            and cached.device == device
            and cached.dtype == dtype
            and not (torch.is_grad_enabled() and is_inference(cached))
        ):
            return
        self._seq_len_cached = seqlen
        positions = torch.arange(seqlen, device=device, dtype=torch.float32)
        # Anew if the model was converted: half precision is too little for angles of far positions.
        is_exact = self.inv_freq.dtype == torch.float32
        inv_freq = self.inv_freq if is_exact else self._compute_inv_freq(device)
        angles = torch.outer(positions, inv_freq)
        cos, sin = angles.cos(), angles.sin()
        if self.scale is None:
            self._cos_cached, self._sin_cached = cos.to(dtype), sin.to(dtype)
            return
        is_exact = self.scale.dtype == torch.float32
        scale = self.scale if is_exact else self._compute_scale(self.scale.device)
        powers = scale.to(positions.device) ** ((positions - seqlen // 2) / self.scale_base)[:, None]
        self._cos_cached, self._sin_cached = (cos * powers).to(dtype), (sin * powers).to(dtype)
        self._cos_k_cached, self._sin_k_cached = (cos / powers).to(dtype), (sin / powers).to(dtype)


def is_inference(tensor):
    """Whether autograd cannot save it. What torch.compile traces saves a copy, and must not ask."""
    return not torch.compiler.is_compiling() and tensor.is_inference()

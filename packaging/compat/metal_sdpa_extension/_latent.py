"""Keys and values from a latent that stands for both (multi-head latent attention): two products."""

import torch


class MlaContext:
    """Weights that make keys and values of latents."""

    def __init__(self) -> None:
        self.wk: torch.Tensor | None = None
        self.wv: torch.Tensor | None = None

    def init_random_weights(self, num_heads: int, head_dim: int, kv_latent_dim: int) -> None:
        """Take normal weights of float16, of a variance that keeps that of latents."""
        shape = kv_latent_dim, num_heads * head_dim
        self.wk, self.wv = ((torch.randn(shape) * kv_latent_dim**-0.5).half() for _ in range(2))

    def load_weights(self, wk: torch.Tensor, wv: torch.Tensor) -> None:
        """Take weights (latent_dim, H * D) of keys and of values."""
        for name, weights in (("wk", wk), ("wv", wv)):
            if weights.dim() != 2:
                raise ValueError(f"{name}: {weights.dim()} dimensions, expected 2")
        self.wk, self.wv = wk, wv

    def forward(
        self,
        kv_latent: torch.Tensor,
        batch_size: int,
        num_heads: int,
        sequence_length: int,
        head_dim: int,
        kv_latent_dim: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B * N, H * D) of latents (B * N, latent_dim) or (B, N, latent_dim).

        Raises
        ------
        RuntimeError
            There are no weights yet.
        ValueError
            Sizes are not those of weights and latents.
        """
        if self.wk is None or self.wv is None:
            raise RuntimeError("MlaContext: has no weights, expected load_weights before forward")
        expected = kv_latent_dim, num_heads * head_dim
        for name, weights in (("wk", self.wk), ("wv", self.wv)):
            if weights.shape != expected:
                raise ValueError(f"{name}: shape {tuple(weights.shape)}, expected {expected}")
        latents = batch_size * sequence_length
        if kv_latent.numel() != latents * kv_latent_dim:
            raise ValueError(
                f"kv_latent: shape {tuple(kv_latent.shape)}, expected ({latents}, {kv_latent_dim})"
            )
        flat = kv_latent.reshape(latents, kv_latent_dim)
        return flat @ self.wk.to(flat), flat @ self.wv.to(flat)


def mla_create_context() -> MlaContext:
    """`MlaContext()`."""
    return MlaContext()


def mla_destroy_context(context: MlaContext) -> None:
    """Let go of the weights."""
    context.wk = context.wv = None


def mla_init_weights(context: MlaContext, num_heads: int, head_dim: int, kv_latent_dim: int) -> None:
    """`MlaContext.init_random_weights`."""
    context.init_random_weights(num_heads, head_dim, kv_latent_dim)


def mla_load_weights(context: MlaContext, wk: torch.Tensor, wv: torch.Tensor) -> None:
    """`MlaContext.load_weights`."""
    context.load_weights(wk, wv)


def mla_forward(
    context: MlaContext,
    kv_latent: torch.Tensor,
    batch_size: int,
    num_heads: int,
    sequence_length: int,
    head_dim: int,
    kv_latent_dim: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`MlaContext.forward`."""
    return context.forward(kv_latent, batch_size, num_heads, sequence_length, head_dim, kv_latent_dim)

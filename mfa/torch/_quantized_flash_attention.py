"""mfa.torch.quantized.QuantizedFlashAttention: mfa.quantized's, as a module."""

from typing import Any, Literal

import torch

from mfa._quantized_config import QuantizedConfig
from mfa.quantized import QuantizedFlashAttention as Attention


class QuantizedFlashAttention(torch.nn.Module):
    """`torch.nn.functional.scaled_dot_product_attention` to quantised keys and values, as a module.

    Parameters
    ----------
    query_precision : {"fp16", "bf16", "fp32"} or None, default None
    key_precision, value_precision : {"int8", "uint8", "int4", "uint4", "fp16", ...}, default "int8"
        As in `mfa.quantized.QuantizedConfig`.
    enable_training : bool, default True
        Whether gradients are recorded and weights dropped. Without, tensors that require grad are refused.
    device : {"auto", "cpu", "metal"}, default "auto"
        What computes; "auto" is the process-wide context's.
    config : dict or None, default None
        What else `mfa.quantized.QuantizedConfig` has, but for what the calls say themselves.

    Raises
    ------
    TypeError, ValueError, mfa.MFAError
        As `mfa.quantized.QuantizedFlashAttention`.

    Notes
    -----
    It has no parameters, and can be copied, pickled, and called from any number of threads. Gradients of keys
    and values are those of what their codes stand for: the straight-through estimator (Bengio et al., 2013).

    Examples
    --------
    >>> import torch
    >>> from mfa.torch.quantized import QuantizedFlashAttention
    >>> attention = QuantizedFlashAttention(value_precision="int4", config={"smooth_key": True})
    >>> query = torch.ones(1, 2, 4, 8, requires_grad=True)
    >>> attention(query, query, query, is_causal=True).sum().backward()
    >>> query.grad.shape
    torch.Size([1, 2, 4, 8])
    """

    def __init__(
        self,
        query_precision: str | None = None,
        key_precision: str = "int8",
        value_precision: str = "int8",
        enable_training: bool = True,
        *,
        device: Literal["auto", "cpu", "metal"] = "auto",
        config: QuantizedConfig | None = None,
    ) -> None:
        super().__init__()
        self.attention = Attention(
            query_precision, key_precision, value_precision, enable_training, device=device, config=config
        )

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        """`mfa.scaled_dot_product_attention` of tensors to quantised keys and values.

        Parameters
        ----------
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa
            As for `mfa.scaled_dot_product_attention`, with at most 4 axes. Weights are dropped by a module
            that is in training mode.

        Returns
        -------
        Tensor (..., H, N, Dv)
            dtype as query, unless the configuration says another.

        Raises
        ------
        TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
            As `mfa.scaled_dot_product_attention` and `mfa.quantize`.
        """
        return self.attention.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale,
            enable_gqa,
            is_training=self.training and self.attention.enable_training,
            return_gradients=self.records(query, key, value, attn_mask),
        )

    def scaled_dot_product_attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        *,
        is_training: bool = False,
        return_gradients: bool = False,
    ) -> torch.Tensor:
        """The method of `mfa.quantized.QuantizedFlashAttention`, where the call says what it is for.

        Parameters
        ----------
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, is_training, return_gradients
            As there.

        Returns
        -------
        Tensor (..., H, N, Dv)

        Raises
        ------
        TypeError, ValueError, BufferError, MemoryError, mfa.MFAError
            As there.
        """
        return self.attention.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale,
            enable_gqa,
            is_training=is_training,
            return_gradients=return_gradients,
        )

    def records(self, *arrays: Any) -> bool:
        """Whether a call with these records its gradients."""
        return (
            self.attention.enable_training
            and torch.is_grad_enabled()
            and any(isinstance(array, torch.Tensor) and array.requires_grad for array in arrays)
        )

    def extra_repr(self) -> str:
        config = self.attention.config
        names = ("query_precision", "key_precision", "value_precision")
        said = [f"{name}={config[name]!r}" for name in names if config[name] is not None]
        return ", ".join([*said, f"device={self.attention.device!r}"])

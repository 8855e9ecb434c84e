"""The switch, and ``torch.backends.metal_sdpa``."""

import contextlib
import threading
import warnings
from collections.abc import Iterator

import metal_sdpa_extension
import torch

_lock = threading.Lock()
_is_registered = False


def is_metal_sdpa_available() -> bool:
    """Whether this machine has a GPU that mfa runs on."""
    return metal_sdpa_extension.is_metal_available()


def metal_sdpa_version() -> tuple[int, int, int] | None:
    """Major, minor and patch number of mfa; None where there is no GPU."""
    return metal_sdpa_extension.get_version() if is_metal_sdpa_available() else None


def register_metal_sdpa_backend() -> None:
    """Have mfa run PyTorch's function on MPS tensors. A second time is a warning.

    Raises
    ------
    RuntimeError
        There is no GPU.
    """
    global _is_registered
    with _lock:
        if _is_registered:
            warnings.warn("Metal SDPA backend already registered", UserWarning, stacklevel=2)
            return
        if not is_metal_sdpa_available():
            raise RuntimeError("Metal is not available on this device")
        metal_sdpa_extension.register_backend()
        _is_registered = True


def unregister_metal_sdpa_backend() -> None:
    """Give PyTorch's function back. Where it is not registered that is a warning."""
    global _is_registered
    with _lock:
        if not _is_registered:
            warnings.warn("Metal SDPA backend not currently registered", UserWarning, stacklevel=2)
            return
        metal_sdpa_extension.unregister_backend()
        _is_registered = False


@contextlib.contextmanager
def use_metal_sdpa() -> Iterator[torch.device]:
    """Register, unless that was done, for good; the device that tensors are to be on.

    Raises
    ------
    RuntimeError
        There is no GPU, or PyTorch has no MPS.
    """
    if not _is_registered:
        register_metal_sdpa_backend()
    yield execution_device()


class MetalSDPAContext:
    """A context manager that moves tensors to the GPU and back.

    Parameters
    ----------
    auto_register : bool, default True
        Whether entering it registers.
    """

    def __init__(self, auto_register: bool = True) -> None:
        self.auto_register = auto_register
        self.device: torch.device | None = None

    def __enter__(self) -> "MetalSDPAContext":
        if self.auto_register and not _is_registered:
            register_metal_sdpa_backend()
        self.device = execution_device()
        return self

    def __exit__(self, *exception: object) -> None:
        self.device = None

    def to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the GPU."""
        return tensor.to(self._device())

    def to_cpu(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor on the CPU."""
        return tensor.cpu()

    def direct_call(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
    ) -> torch.Tensor:
        """`metal_sdpa_extension.metal_scaled_dot_product_attention` on the GPU of tensors anywhere.

        Parameters
        ----------
        query, key, value, attn_mask, dropout_p, is_causal, scale
            As there.

        Returns
        -------
        Tensor (..., H, N, Dv), dtype and device as query

        Raises
        ------
        RuntimeError
            The context is not entered.
        """
        device = self._device()
        result = metal_sdpa_extension.metal_scaled_dot_product_attention(
            query.to(device),
            key.to(device),
            value.to(device),
            None if attn_mask is None else attn_mask.to(device),
            dropout_p,
            is_causal,
            scale,
        )
        return result.to(query.device)

    def _device(self):
        if self.device is None:
            raise RuntimeError("MetalSDPAContext is not active")
        return self.device


class MetalSDPABackendConfig:
    """``torch.backends.metal_sdpa``."""

    @property
    def enabled(self) -> bool:
        """Whether `register_metal_sdpa_backend` was called last; assigning calls it, or its opposite."""
        return _is_registered

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value and not _is_registered:
            register_metal_sdpa_backend()
        elif not value and _is_registered:
            unregister_metal_sdpa_backend()

    @property
    def available(self) -> bool:
        """`is_metal_sdpa_available`."""
        return is_metal_sdpa_available()

    @property
    def version(self) -> tuple[int, int, int] | None:
        """`metal_sdpa_version`."""
        return metal_sdpa_version()


def execution_device() -> torch.device:
    if not torch.backends.mps.is_available():
        raise RuntimeError("Metal SDPA backend requires an available MPS device")
    return torch.device("mps")


torch.backends.metal_sdpa = MetalSDPABackendConfig()

"""Switches for PyTorch's ``scaled_dot_product_attention`` run by mfa on MPS tensors, by the original's names.

Importing it imports metal_sdpa_extension, which turns that on. ``torch.backends.metal_sdpa`` says whether.
"""

import metal_sdpa_extension as metal_sdpa_extension
from umfa import __version__ as __version__

from pytorch_custom_op_ffi.backend import (
    MetalSDPAContext,
    is_metal_sdpa_available,
    metal_sdpa_version,
    register_metal_sdpa_backend,
    unregister_metal_sdpa_backend,
    use_metal_sdpa,
)

__all__ = [
    "MetalSDPAContext",
    "is_metal_sdpa_available",
    "metal_sdpa_version",
    "register_metal_sdpa_backend",
    "unregister_metal_sdpa_backend",
    "use_metal_sdpa",
]

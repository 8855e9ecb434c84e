"""Attention of NumPy arrays by the names of umfa-python, computed by mfa."""

from mfa import MFAError, __version__
from umfa.core import MFABuffer, MFAContext, attention, flash_attention_forward, quantized_attention
from umfa.utils import create_context, get_version, is_metal_available, print_system_info

__all__ = [
    "MFABuffer",
    "MFAContext",
    "MFAError",
    "__version__",
    "attention",
    "create_context",
    "flash_attention_forward",
    "get_version",
    "is_metal_available",
    "print_system_info",
    "quantized_attention",
]

"""mfa: flash attention behind one C ABI, on Metal and on the CPU.

`attention` reaches everything, and `attention_backward` computes its gradients;
`scaled_dot_product_attention` has PyTorch's signature, and all of FlashAttention-3's functions are here. All
take NumPy arrays, torch tensors and anything else with the buffer protocol or DLPack on the CPU.
"""

from mfa import _compiled as _compiled  # first
from mfa import patterns as patterns
from mfa import quantized as quantized
from mfa._attention import attention, plan, sliding_window
from mfa._attention_backward import attention_backward
from mfa._block_mask import BlockMask, create_block_mask, create_mask
from mfa._buffer import Buffer
from mfa._context import Context
from mfa._flash_attn import flash_attn_func, flash_attn_qkvpacked_func
from mfa._flash_attn_combine import flash_attn_combine
from mfa._flash_attn_kvcache import flash_attn_with_kvcache
from mfa._flash_attn_varlen import flash_attn_varlen_func
from mfa._flex_attention import (
    AuxOutput,
    AuxRequest,
    FlexPlan,
    flex_attention,
    flex_attention_backward,
    flex_plan,
)
from mfa._gradients import Gradients
from mfa._installed import get_include, get_library
from mfa._mask_mods import and_masks, noop_mask, or_masks
from mfa._quantize import quantize
from mfa._quantized_tensor import QuantizedTensor
from mfa._scheduler_metadata import get_scheduler_metadata
from mfa._sdpa import scaled_dot_product_attention
from mfa._sparsity import SparsityPattern
from mfa._status import is_device_supported, last_latency, library_version
from mfa.errors import MFAError
from mfa.reports import ContextInfo, Plan

__version__ = library_version()

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "Buffer",
    "Context",
    "ContextInfo",
    "FlexPlan",
    "Gradients",
    "MFAError",
    "Plan",
    "QuantizedTensor",
    "SparsityPattern",
    "and_masks",
    "attention",
    "attention_backward",
    "create_block_mask",
    "create_mask",
    "flash_attn_combine",
    "flash_attn_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_with_kvcache",
    "flex_attention",
    "flex_attention_backward",
    "flex_plan",
    "get_include",
    "get_library",
    "get_scheduler_metadata",
    "is_device_supported",
    "last_latency",
    "noop_mask",
    "or_masks",
    "plan",
    "quantize",
    "scaled_dot_product_attention",
    "sliding_window",
]

"""Counters of who ran which calls."""

import threading

from mfa.torch import sdpa_counts

COUNTED_HERE = (
    "quantized_autograd",
    "fp32_autograd",
    "fp32_direct",
    "fp32_instream",
    "rope_instream",
    "rope_autograd",
    "mask_all_true_skipped",
)
# Those of which each is a call that PyTorch's function was.
RUN_HERE = COUNTED_HERE[:4]

_lock = threading.Lock()
_counts = dict.fromkeys(COUNTED_HERE, 0)
_handed_back_before = sdpa_counts().torch


def count(*names):
    with _lock:
        for name in names:
            _counts[name] += 1


def get_dispatch_stats() -> dict[str, int]:
    """How many calls there were, by what ran them.

    Returns
    -------
    dict
        ``total`` of PyTorch's function and of `metal_scaled_dot_product_attention`, which are
        ``quantized_autograd``, ``fp32_autograd`` (gradients were recorded), ``fp32_instream`` (of MPS
        tensors), ``fp32_direct`` (of others) and ``pytorch_fallback`` together; of any dtype. Besides
        ``rope_instream``, of which ``rope_autograd`` recorded gradients, and ``mask_all_true_skipped``.
    """
    with _lock:
        found = dict(_counts)
        handed_back = sdpa_counts().torch - _handed_back_before
    total = handed_back + sum(found[name] for name in RUN_HERE)
    return {"total": total, **found, "pytorch_fallback": handed_back}


def reset_dispatch_stats() -> None:
    """Have all counters begin at 0 again."""
    global _handed_back_before
    with _lock:
        _counts.update(dict.fromkeys(COUNTED_HERE, 0))
        _handed_back_before = sdpa_counts().torch

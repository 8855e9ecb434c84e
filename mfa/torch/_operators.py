"""Attention as operators of torch's dispatcher, for all that traces or transforms programs.

Eager calls do not come here: they would pay for it. All arguments are by position, as vmap asks for.
"""

import torch

from mfa.torch import _operator_autograd, _vmap
from mfa.torch._autocast import autocast
from mfa.torch._kernels import compute_backward, computed, describe, describe_backward
from mfa.torch._library import LIBRARY, attention, attention_append, attention_backward
from mfa.torch._schema import APPEND, FORWARD

__all__ = ["attention", "attention_append", "attention_backward"]


def register(operator, compute, describe, record, vmap):
    name = operator._schema.name
    for device in ("CPU", "MPS"):
        LIBRARY.impl(name, compute, device)
    LIBRARY.impl(name, record, "Autograd", with_keyset=True)
    torch.library.register_fake(operator, describe, lib=LIBRARY)
    torch.library.register_vmap(operator, vmap, lib=LIBRARY)


register(attention, computed(FORWARD), describe(FORWARD), _operator_autograd.record, _vmap.forward)
register(attention_append, computed(APPEND), describe(APPEND), _operator_autograd.record_append, _vmap.append)
register(
    attention_backward,
    compute_backward,
    describe_backward,
    _operator_autograd.record_backward,
    _vmap.backward,
)
for device_type, key in (("cpu", "AutocastCPU"), ("mps", "AutocastMPS")):
    LIBRARY.impl(attention._schema.name, autocast(device_type, key), key)

"""torch.nn.attention.activate_flash_attention_impl("mfa")."""

import warnings

import torch

from mfa.torch import _flash_operators
from mfa.torch._aten_kernels import Kernels
from mfa.torch._counts import TALLY
from mfa.torch._replace import DTYPES, of_dtype, override, restore

OF_SDPA_ON_CPU = (
    _flash_operators.scaled_dot_product_flash_attention_for_cpu,
    _flash_operators.scaled_dot_product_flash_attention_for_cpu_backward,
)


class Activation:
    """What PyTorch holds while mfa runs its flash attention operators, and removes to have its own back."""

    def __init__(self):
        self._kernels = [
            Kernels(dict(map(_or_torch, OF_SDPA_ON_CPU)), with_keyset=True),
            Kernels(_flash_operators.on_devices(_flash_operators.OPERATORS)),
        ]
        # F.scaled_dot_product_attention asks for no flash attention there.
        override("MPS")

    def remove(self):
        for kernels in self._kernels:
            kernels.remove()
        restore("MPS")


def _or_torch(function):
    """Where `function` goes, and what it is there: PyTorch's for dtypes that mfa has not."""
    name = f"_{function.__name__}"
    of_torch = torch.library.get_kernel(f"aten::{name}", "CPU")

    def run(keys, *arguments, **keywords):
        dtype = arguments[0].dtype
        if dtype in DTYPES:
            return function(*arguments, **keywords)
        reason = of_dtype(dtype)
        # A gradient is no call of its own.
        if not name.endswith("_backward") and TALLY.add_torch(reason):
            warnings.warn(f"PyTorch runs {name} in place of mfa: {reason} (said once)", stacklevel=2)
        return of_torch.call_boxed(keys, *arguments, **keywords)

    return (name, "CPU"), run


def register():
    """Make the name known to PyTorch. What runs the operators is the user's choice, and not made here."""
    torch.nn.attention.register_flash_attention_impl("mfa", register_fn=Activation)

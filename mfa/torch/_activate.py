"""torch.nn.attention.activate_flash_attention_impl("mfa")."""

import warnings

import torch

from mfa.torch import _flash_operators
from mfa.torch._counts import TALLY
from mfa.torch._replace import DTYPES, of_dtype, override, restore

OF_SDPA_ON_CPU = (
    _flash_operators.scaled_dot_product_flash_attention_for_cpu,
    _flash_operators.scaled_dot_product_flash_attention_for_cpu_backward,
)


class Activation:
    """What PyTorch holds while mfa runs its flash attention operators, and removes to have its own back."""

    def __init__(self):
        self._library = torch.library.Library("aten", "IMPL")
        for function in OF_SDPA_ON_CPU:
            self._override(function)
        for name, function in _flash_operators.OPERATORS.items():
            self._library.impl(name, function, "CPU")
            self._library.impl(name, function, "MPS")
        # F.scaled_dot_product_attention asks for no flash attention there.
        override("MPS")

    def remove(self):
        self._library._destroy()
        restore("MPS")

    def _override(self, function):
        """Have `function` run its operator for the dtypes that mfa has, and PyTorch for others."""
        name = f"_{function.__name__}"
        of_torch = torch.library.get_kernel(f"aten::{name}", "CPU")

        def run(keys, *arguments, **keywords):
            if arguments[0].dtype in DTYPES:
                return function(*arguments, **keywords)
            if not name.endswith("_backward"):
                reason = of_dtype(arguments[0].dtype)
                if TALLY.add_torch(reason):
                    warnings.warn(f"PyTorch runs {name} in place of mfa: {reason} (said once)", stacklevel=2)
            return of_torch.call_boxed(keys, *arguments, **keywords)

        with warnings.catch_warnings():  # that it overrides is what it is for
            warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
            self._library.impl(name, run, "CPU", with_keyset=True)


def register():
    """Make the name known to PyTorch. What runs the operators is the user's choice, and not made here."""
    torch.nn.attention.register_flash_attention_impl("mfa", register_fn=Activation)

"""Kernels of PyTorch's operators that are mfa's for a while."""

import warnings

import torch


class Kernels:
    """`functions` by the name of the operator that they run on `devices`, until `remove` or an end of a with.

    Names of operators are those in ``torch.ops.aten``.
    """

    def __init__(self, functions, devices, *, with_keyset=False):
        self._library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():  # that it overrides is what it is for
            warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
            for name, function in functions.items():
                for device in devices:
                    self._library.impl(name, function, device, with_keyset=with_keyset)

    def remove(self):
        self._library._destroy()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.remove()

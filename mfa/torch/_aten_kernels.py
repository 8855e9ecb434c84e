"""Kernels of PyTorch's operators that are mfa's for a while."""

import warnings

import torch


class Kernels:
    """`functions` run operators, until `remove` or the end of a with statement.

    `functions` has (name in ``torch.ops.aten``, dispatch key) of each.
    """

    def __init__(self, functions, *, with_keyset=False):
        self._operators = {getattr(torch.ops.aten, name).default for name, _ in functions}
        self._library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings():  # that it overrides is what it is for
            warnings.filterwarnings("ignore", "Warning only once for all operators", UserWarning)
            for (name, key), function in functions.items():
                self._library.impl(name, function, key, with_keyset=with_keyset)
        self._forget()

    def remove(self):
        self._library._destroy()
        self._forget()

    def _forget(self):
        """Have tracing look up kernels anew, which it does once for each operator."""
        for operator in self._operators:
            operator._dispatch_cache.clear()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.remove()

"""The backends that tests run on: each ISA of the CPU backend that this machine has, and Metal.

MFA_TEST_BACKENDS names those to run on, separated by commas. Tests that take none use the default backend,
and are left out unless MFA_BACKEND names one of them.
"""

import functools
import os
from dataclasses import dataclass, field

import mfa

DEVICE_NOT_SUPPORTED = 3
CHOSEN = tuple(filter(None, os.environ.get("MFA_TEST_BACKENDS", "").split(",")))


@dataclass(frozen=True)
class Backend:
    name: str
    options: dict = field(default_factory=dict)

    def context(self, **options):
        return mfa.Context(**self.options, **options)

    @functools.cached_property
    def info(self):
        with self.context() as context:
            return context.describe()

    @property
    def is_cpu(self):
        return self.info.backend == "cpu"

    @property
    def is_emulated(self):
        return self.info.device.endswith("(emulated)")

    def present(self):
        try:
            self.context().close()
        except mfa.MFAError as error:
            if error.code != DEVICE_NOT_SUPPORTED:
                raise
            return False
        return True


DEFAULT = Backend("default")
METAL = Backend("metal", {"backend": "metal"})
BACKENDS = (
    *(Backend(isa, {"backend": "cpu", "cpu_isa": isa}) for isa in ("scalar", "avx2", "avx512", "neon")),
    METAL,
)
if unknown := set(CHOSEN) - {backend.name for backend in BACKENDS}:
    raise ValueError(f"MFA_TEST_BACKENDS names {', '.join(sorted(unknown))}")
PRESENT = tuple(
    backend for backend in BACKENDS if (not CHOSEN or backend.name in CHOSEN) and backend.present()
)
if absent := set(CHOSEN) - {backend.name for backend in PRESENT}:
    raise ValueError(f"MFA_TEST_BACKENDS names {', '.join(sorted(absent))}, not on this machine")

"""The backends that the attention tests run on: every ISA of the CPU backend that this machine has."""

from dataclasses import dataclass, field

import mfa

DEVICE_NOT_SUPPORTED = 3


@dataclass(frozen=True)
class Backend:
    name: str
    options: dict = field(default_factory=dict)

    def context(self, **options):
        return mfa.Context(**self.options, **options)

    def present(self):
        try:
            self.context().close()
        except mfa.MFAError as error:
            if error.code != DEVICE_NOT_SUPPORTED:
                raise
            return False
        return True


BACKENDS = tuple(
    Backend(isa, {"backend": "cpu", "cpu_isa": isa}) for isa in ("scalar", "avx2", "avx512", "neon")
)
PRESENT = tuple(backend for backend in BACKENDS if backend.present())

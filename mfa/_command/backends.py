"""The backends, instruction sets and devices of this machine, and why others are not."""

from dataclasses import asdict, dataclass
from typing import Any

from mfa._context import Context
from mfa.errors import MFAError
from mfa.reports import ContextInfo

DEVICE_NOT_SUPPORTED = 3
ISAS = ("scalar", "avx2", "avx512", "neon")
MOST_DEVICES = 16  # that are looked for


@dataclass(frozen=True)
class Place:
    """Where attention may run: the options of a context, and what it says of itself or why there is none."""

    name: str
    options: dict[str, Any]
    info: ContextInfo | None
    reason: str = ""
    is_absent: bool = False  # rather than there, or there and failing

    def described(self) -> dict[str, Any]:
        """For JSON; what has a reason is not to be had."""
        if self.info is None:
            return {"name": self.name, "is_absent": self.is_absent, "reason": self.reason}
        return {"name": self.name, **asdict(self.info)}


def place(name: str, **options: Any) -> Place:
    try:
        with Context(**options) as context:
            return Place(name, options, context.describe())
    except MFAError as error:
        return Place(name, options, None, str(error), error.code == DEVICE_NOT_SUPPORTED)
    except (MemoryError, ValueError) as error:  # a variable of the environment may be wrong
        return Place(name, options, None, str(error))


def default(**options: Any) -> Place:
    return place("default", **options)


def of_cpu(**options: Any) -> list[Place]:
    """One for each instruction set that the library knows."""
    return [place(isa, backend="cpu", cpu_isa=isa, **options) for isa in ISAS]


def of_metal(**options: Any) -> list[Place]:
    """One for each device, or one that says why there is none."""
    found = [place("metal", backend="metal", **options)]
    while found[-1].info and len(found) < MOST_DEVICES:
        found.append(place(f"metal {len(found)}", backend="metal", device=len(found), **options))
    return found if len(found) == 1 or not found[-1].is_absent else found[:-1]


def every(backend: str = "auto", **options: Any) -> list[Place]:
    """Those of one backend, or of all."""
    found = [] if backend == "metal" else of_cpu(**options)
    return found if backend == "cpu" else found + of_metal(**options)


def best(backend: str = "auto", isa: str = "auto", **options: Any) -> list[Place]:
    """One of each backend: of all that are here, or of that one."""
    cpu = place("cpu", backend="cpu", cpu_isa=isa, **options)
    if backend == "cpu":
        return [cpu]
    metal = place("metal", backend="metal", **options)
    return [metal] if backend == "metal" else [each for each in (metal, cpu) if not each.is_absent]

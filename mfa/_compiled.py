"""Fails with what to do where compiled modules are missing: Python alone would know no module mfa._call."""

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

if not any((_PACKAGE / f"_call{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
    _missing = f"{_PACKAGE} has no modules compiled for this Python ({EXTENSION_SUFFIXES[0]})"
    if (_PACKAGE.parent / "setup.py").exists():
        raise ImportError(
            f"mfa is imported from its source folder, and {_missing}: "
            "start Python elsewhere for the mfa that is installed, or compile it there by `make demo`"
        )
    raise ImportError(f"{_missing}: install mfa with the pip of this Python")

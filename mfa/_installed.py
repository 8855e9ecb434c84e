"""Where the C library and its header are, for people who compile and link against them."""

import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def get_include() -> str:
    """The directory that holds ``mfa.h``.

    Returns
    -------
    str
    """
    return str(_PACKAGE / "include")


def get_library() -> str:
    """The path of the shared library that this package runs on.

    Returns
    -------
    str
        Ends in ``libmfa.so``, or ``libmfa.dylib`` on macOS.
    """
    return str(_PACKAGE / ("libmfa.dylib" if sys.platform == "darwin" else "libmfa.so"))

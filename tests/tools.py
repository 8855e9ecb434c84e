"""What a test needs that may be missing: a named skip, or a failure where MFA_REQUIRE_ALL=1."""

import importlib
import os
import shutil

import pytest


def require_tool(name, apt_line):
    """Path of the program `name`; `apt_line` is the command that installs it."""
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed: {apt_line}")
    return path


def require_module(name, install_line):
    """The Python module `name`; `install_line` is the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        missing(f"Python module {name} is not installed: {install_line}")


def missing(reason):
    """Skips the test for `reason`, or fails it where everything is required."""
    if os.environ.get("MFA_REQUIRE_ALL") == "1":
        pytest.fail(f"MFA_REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)

"""What a test needs that may be missing: a named skip, or a failure where MFA_REQUIRE_ALL=1."""

import importlib
import os
import platform
import shutil
import subprocess
import sys

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


def require_metal_emulator():
    """Its compiler's path. Elsewhere than on Linux and x86-64, whose fibers it has, nothing is missing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("the Metal emulator is for Linux on x86-64")
    if not os.path.exists("/usr/include/GNUstep/Foundation/Foundation.h"):
        missing("GNUstep is not installed: apt-get install libgnustep-base-dev gobjc")
    return require_tool("clang-19", "apt-get install clang-19")


def require_fuzzing_clang():
    """Path of the clang that sanitizes and fuzzes, on Linux."""
    compiler = require_tool("clang-19", "apt-get install clang-19")
    runtime = f"libclang_rt.fuzzer-{platform.machine()}.a"
    found = subprocess.run([compiler, f"-print-file-name={runtime}"], capture_output=True, text=True).stdout
    if not os.path.isabs(found.strip()):
        missing("libFuzzer is not installed: apt-get install libclang-rt-19-dev")
    return compiler


def missing(reason):
    """Skips the test for `reason`, or fails it where everything is required."""
    if os.environ.get("MFA_REQUIRE_ALL") == "1":
        pytest.fail(f"MFA_REQUIRE_ALL=1, but {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)

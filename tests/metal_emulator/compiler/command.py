"""How clang is called."""

import os

HOME = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SHIM = os.path.join(HOME, "msl")
LANGUAGE = ["-x", "cl", "-cl-std=clc++2021", "-cl-no-stdinc", "-cl-single-precision-constant"]
LANGUAGE += ["-Xclang", "-cl-ext=-cl_khr_fp64,-__opencl_c_fp64"]
CODE = [
    "-march=x86-64-v3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=on",
    "-gline-tables-only",
    "-gdwarf-4",
]
CODE += ["-Xclang", "-ffloat16-excess-precision=none", "-Xclang", "-fbfloat16-excess-precision=none"]
CODE += ["-fdebug-compilation-dir=.", f"-fdebug-prefix-map={SHIM}=<metal>"]


class CompileError(Exception):
    """Why there is no module, in lines; empty if the compiler has said it on the standard error already."""


def run(command):
    """Diagnostics go to the standard error. Not by subprocess: its import takes as long as Python's start."""
    if os.spawnvp(os.P_WAIT, command[0], command):
        raise CompileError("")

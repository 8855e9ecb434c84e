"""Runs on the emulated Metal device, the build that they need, and which tests it is asked."""

import functools
import re
import subprocess
import sys

from support.flags import WARNINGS
from support.source_tree import ROOT, make, make_env, run
from support.tools import require_metal_emulator

EMULATOR = ROOT / "tests/metal_emulator"
LIBRARIES = ("-lmfa", "-lMetal", "-lgnustep-base", "-lobjc", "-lm")


def built_library():
    """The folder of the emulated build, made; skips the test where it cannot be."""
    require_metal_emulator()
    make("metal-emulator")
    return ROOT / "build/metal-emulator"


def objc_flags():
    """What Objective-C is compiled with for the emulated device."""
    require_metal_emulator()
    return make("-f", EMULATOR / "host/emulator.mk", "metal-objcflags").split()


def build_objc(library, source, binary, *includes):
    """Compiles a program for the emulated device; `library` is the folder of the emulated build."""
    flags = ["-O1", "-g", *WARNINGS, *(f"-I{ROOT / folder}" for folder in includes)]
    compiler = require_metal_emulator()
    run(compiler, *objc_flags(), *flags, source, "-o", binary, f"-L{library}", *LIBRARIES, cwd=ROOT)


def environment(**settings):
    """Without settings of the emulator but those given."""
    kept = {
        name: value
        for name, value in make_env().items()
        if not name.startswith(("MFA_", "METAL_EMULATOR_")) or name == "METAL_EMULATOR_CACHE"
    }
    return {**kept, "METAL_EMULATOR_PYTHON": sys.executable, **settings}


def in_python(*arguments, **settings):
    """Runs Python with these arguments and the emulated device; what it printed, in `stdout` and `stderr`."""
    return subprocess.run(
        [EMULATOR / "run", sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(**settings),
    )


def collected(*command):
    """Tests that this command of pytest would run, as (file in tests/, function)."""
    said = run(*command, "--collect-only", "-q", cwd=ROOT, env=environment())
    return set(re.findall(r"^tests/([\w/]+\.py)::(\w+)", said, flags=re.MULTILINE))


@functools.cache
def asked_of_metal():
    return collected(ROOT / "tests/on_metal")

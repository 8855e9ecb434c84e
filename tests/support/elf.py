"""What a shared library of Linux asks of whoever loads it."""

import re

from support.source_tree import run
from support.tools import require_tool

READELF = ("readelf", "apt-get install binutils")


def run_paths(path):
    """Where it has the loader look for libraries, before the system's folders."""
    dynamic = run(require_tool(*READELF), "-dW", path)
    return [
        folder
        for paths in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic)
        for folder in paths.split(":")
    ]


def assert_hardened(path):
    readelf = require_tool(*READELF)
    assert "BIND_NOW" in run(readelf, "-dW", path)
    segments = run(readelf, "-lW", path)
    assert "GNU_RELRO" in segments
    [stack] = re.findall(r"GNU_STACK.* (R.?.?) +0x", segments)
    assert "E" not in stack
    imported = run(readelf, "--dyn-syms", "-W", path)
    assert "__stack_chk_fail" in imported


def assert_no_trace_of_the_build(path, *folders):
    """Neither debug information nor a folder that it was built in."""
    assert ".debug_info" not in run(require_tool(*READELF), "-SW", path)
    data = path.read_bytes()
    assert not [folder for folder in folders if str(folder).encode() in data]

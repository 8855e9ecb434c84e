"""The Zig example."""

import os
import re
import sys

from support.examples import printed
from support.source_tree import PKG_CONFIG
from support.tools import require_module, require_tool

AGREEMENT = re.compile(r"largest difference from the formula: \S+\n")


def test_zig(tmp_path):
    require_module("ziglang", "pip install ziglang")
    require_tool(*PKG_CONFIG)
    zig = tmp_path / "bin/zig"
    zig.parent.mkdir()
    zig.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang "$@"\n')
    zig.chmod(0o755)
    settings = {
        "PATH": os.pathsep.join([str(zig.parent), os.environ["PATH"]]),
        "ZIG_LOCAL_CACHE_DIR": str(tmp_path / "cache"),
        "ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "global"),
    }
    assert AGREEMENT.fullmatch(printed("zig", tmp_path, **settings))

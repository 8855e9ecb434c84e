"""The Rust example."""

import re

from support.examples import printed
from support.source_tree import PKG_CONFIG
from support.tools import require_tool

AGREEMENT = re.compile(r"largest difference from the formula: \S+\n")


def test_rust(tmp_path):
    require_tool("cargo", "apt-get install cargo")
    require_tool(*PKG_CONFIG)
    assert AGREEMENT.fullmatch(printed("rust", tmp_path, CARGO_NET_OFFLINE="true"))

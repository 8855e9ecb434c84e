"""The Go example."""

import re

from support.examples import printed
from support.source_tree import PKG_CONFIG
from support.tools import require_tool

AGREEMENT = re.compile(r"largest difference from the formula: \S+\n")


def test_go(tmp_path):
    require_tool("go", "apt-get install golang-go")
    require_tool(*PKG_CONFIG)
    settings = {
        "GOCACHE": str(tmp_path / "cache"),
        "GOPROXY": "off",
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "CGO_ENABLED": "1",
    }
    assert AGREEMENT.fullmatch(printed("go", tmp_path, **settings))

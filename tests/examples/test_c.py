"""The C example, in the folder that its README has and with an installed library."""

from support.examples import printed
from support.source_tree import PKG_CONFIG, code_block
from support.tools import require_tool

CC = ("cc", "apt-get install gcc libc6-dev")


def test_c(tmp_path):
    require_tool(*CC)
    require_tool(*PKG_CONFIG)
    assert printed("c", tmp_path) == code_block("README.md", "c")[1]

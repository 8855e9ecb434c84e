"""The C++ example, over an installed library."""

from support.examples import TIMED, assert_known, printed, said
from support.source_tree import PKG_CONFIG
from support.tools import require_tool

CXX = ("c++", "apt-get install g++")
CHECKED = {"CXXFLAGS": "-O1 -Wconversion -Werror"}


def test_known_values_and_times(tmp_path):
    require_tool(*CXX)
    require_tool(*PKG_CONFIG)
    assert_known(printed("cpp", tmp_path, **CHECKED))
    assert TIMED.fullmatch(printed("cpp", tmp_path, which=1, **CHECKED))


def test_what_is_refused_is_thrown(tmp_path):
    require_tool(*CXX)
    require_tool(*PKG_CONFIG)
    assert said("cpp", tmp_path, "make -s refused", **CHECKED).splitlines() == [
        "size: a span has 12 elements, expected the 15 of its shape",
        "negative: a shape has -1 on axis 2, expected 0 or more, and no more than memory has",
        "scales: a span has 2 elements, expected the 1 of its shape",
        "columns: key has shape (1, 1, 4, 3), expected (1, 1, 4, 4)",
        "logsumexp: logsumexp is NULL, expected what the forward call wrote",
        "infinity: input[0, 0, 1, 1] is inf, expected a finite number",
        "moved: context was moved from, expected one that owns its handle",
    ]

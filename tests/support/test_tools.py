"""A missing tool skips by name, and fails where everything is required."""

import pytest
from support import tools


@pytest.mark.parametrize(
    ("require", "name"), [(tools.require_tool, "no-such-tool"), (tools.require_module, "no_such_module")]
)
def test_missing(require, name, monkeypatch):
    monkeypatch.delenv("MFA_REQUIRE_ALL", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{name} is not installed: how to install it"):
        require(name, "how to install it")
    monkeypatch.setenv("MFA_REQUIRE_ALL", "1")
    with pytest.raises(pytest.fail.Exception, match=f"{name} is not installed: how to install it"):
        require(name, "how to install it")


def test_present():
    assert tools.require_tool("cc", "apt-get install gcc").endswith("cc")
    assert tools.require_module("support.tools", "") is tools

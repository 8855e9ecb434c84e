"""What docs/pytorch.md shows is what its programs print."""

import contextlib
import io
import re
import sys

import pytest
from support.source_tree import ROOT

PAGE = (ROOT / "docs/pytorch.md").read_text(encoding="utf-8")
SHOWN = [
    (heading, source, output)
    for heading, text in re.findall(r"^##+ (.*)\n((?:(?!##).*\n)*)", PAGE, flags=re.MULTILINE)
    for source, output in re.findall(r"```python\n([^`]*)```\n(?:\nprints\n\n```text\n([^`]*)```)?", text)
]


def test_programs_are_found():
    assert len(SHOWN) == PAGE.count("```python") > 6


@pytest.fixture
def modules(monkeypatch):
    """A process in which nobody entered modules by other names."""
    before = dict(sys.modules)
    yield
    for name in sys.modules.keys() - before.keys():
        if name.partition(".")[0] == "flash_attn":
            del sys.modules[name]


@pytest.mark.usefixtures("modules")
@pytest.mark.filterwarnings("ignore:PyTorch runs")  # of which the page speaks
@pytest.mark.parametrize(("source", "output"), [shown[1:] for shown in SHOWN], ids=[x[0] for x in SHOWN])
def test_program_prints_what_the_page_says(source, output):
    assert output, "nothing says what it prints"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, "docs/pytorch.md", "exec"), {"__name__": "__main__"})
    assert printed.getvalue() == output

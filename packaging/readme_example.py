"""Runs the Python example of README.md with the mfa that is installed, and compares what it prints."""

import contextlib
import io
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main():
    text = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    source, expected = re.search(r"```python\n(.*?)```.*?```text\n(.*?)```", text, flags=re.DOTALL).groups()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(source, {})
    if said.getvalue() != expected:
        sys.exit(f"README.md's example prints\n{said.getvalue()}expected\n{expected}")


if __name__ == "__main__":
    main()

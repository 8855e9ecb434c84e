"""The ABI against committed lists: exported symbols, constants, struct sizes and offsets.

A line that disappears or changes breaks callers that are already compiled; new lines are added by hand.
"""

import os
import pathlib
import re
import subprocess
import sys

from support.tools import require_tool

import mfa

ROOT = pathlib.Path(__file__).parents[2]
HEADER = ROOT / "include/mfa.h"


def committed(name):
    return (ROOT / "tests/abi" / name).read_text().splitlines()


def test_exported_symbols():
    nm = require_tool("nm", "apt-get install binutils")
    on_mac = sys.platform == "darwin"
    flags = ["-gU"] if on_mac else ["-D", "--defined-only"]
    result = subprocess.run([nm, *flags, mfa.get_library()], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in result.stdout.splitlines() if line.split()]
    symbols = {name.removeprefix("_") if on_mac else name for name in names}
    # What the tool chain itself may export is not ours.
    symbols -= {"_init", "_fini", "__bss_start", "_edata", "_end"}
    assert sorted(symbols) == committed("symbols.txt")


def test_header_declares_what_is_exported():
    declared = re.findall(r"MFA_API [^;(]*?(mfa_\w+)\(", HEADER.read_text())
    assert sorted(declared) == committed("symbols.txt")


def test_layout(tmp_path):
    compiler = require_tool(os.environ.get("CC", "cc"), "apt-get install gcc")
    program = tmp_path / "layout"
    subprocess.run(
        [compiler, "-std=c99", f"-I{ROOT / 'include'}", ROOT / "tests/abi/layout.c", "-o", program],
        check=True,
    )
    result = subprocess.run([program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == committed("layout.txt")


def test_every_field_is_in_the_layout():
    """layout.c is written by hand: a field it forgets would go unwatched."""
    structs = re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", HEADER.read_text(), re.DOTALL)
    assert len(structs) == 15
    listed = {line.split()[0] for line in committed("layout.txt")}
    for body, name in structs:
        without_comments = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
        for field in re.findall(r"(\w+)(?:\[\d+\])?;", without_comments):
            assert f"{name}.{field}" in listed


def test_constants():
    found = re.findall(r"#define (MFA_[A-Z0-9_]+) (\(?-?\d+u?\)?)", HEADER.read_text())
    versions = {"MFA_VERSION_MAJOR", "MFA_VERSION_MINOR", "MFA_VERSION_PATCH"}
    assert [f"{name} {value}" for name, value in found if name not in versions] == committed("constants.txt")

"""Every function of mfa.h where memory runs out, at each of its allocations."""

import os
import re
import sys
from pathlib import Path

import pytest
from support.flags import CORE, INCLUDES
from support.source_tree import ROOT, make, run
from support.tools import require_tool


@pytest.mark.skipif(sys.platform != "linux", reason="takes the place of glibc's allocator")
def test_calls_without_memory(tmp_path):
    compiler = require_tool(os.environ.get("CC", "cc"), "apt-get install gcc")
    source, program = Path(__file__).with_name("allocation_failures.c"), tmp_path / "program"
    # Its malloc is to be everybody's, and none of its own calls another's name.
    flags = [*CORE, "-fvisibility=default", "-fno-builtin"]
    run(compiler, "-O1", *flags, *INCLUDES, source, "-o", program, "-ldl")
    make("lib")
    *names, last = run(program, ROOT / "build/release/libmfa.so").splitlines()
    functions = (ROOT / "tests/abi/symbols.txt").read_text().split()
    assert set(" ".join(names).split()) == set(functions)
    failed = int(re.fullmatch(r"(\d+) allocations failed", last)[1])
    assert failed > 4 * len(functions) // 2, "most functions allocate when a thread calls them first"

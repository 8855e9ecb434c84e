"""The Cython example: built as its README says, its program, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.examples import TIMED, assert_known, printed
from support.tools import require_tool

import mfa

REFUSED = """
import threading, time
import numpy as np
from cyattention import Attention, Context, Quantised

rows = np.ones((1, 2, 8, 8), np.float32)
out, lse = np.empty_like(rows), np.empty((1, 2, 8, 1), np.float32)
attention, context = Attention(rows, rows, rows), Context()

def refused(call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("was taken")

refused(Attention(rows, rows[..., 1:], rows).forward, context, out)
refused(Attention(rows, rows, rows[:, :, 1:]).forward, context, out)
refused(attention.forward, context, out[:, :, 1:])
refused(attention.forward, context, rows)
refused(Attention, rows.astype(float), rows, rows)
refused(Quantised, rows.astype(np.int8), np.ones(3, np.float32))
refused(attention.forward_each, context, rows[None], np.empty((2, *rows.shape), np.float32))
refused(attention.backward, context, rows, out, lse[:, :, 1:], out, out, out)
rows.flags.writeable = False
refused(attention.forward, context, rows)
refused(attention.forward, None, out)
refused(Context, -1)
long = np.ones((1, 8, 2048, 64), np.float32)
slow = Attention(long, long, long, causal=True)
results = np.lib.stride_tricks.as_strided(np.empty_like(long), (20, *long.shape), (0, *long.strides))
queries = np.lib.stride_tricks.as_strided(long, (20, *long.shape), (0, *long.strides))
one = Context(threads=1)
started = threading.Event()
caller = threading.Thread(target=lambda: (started.set(), slow.forward_each(one, queries, results)))
caller.start()
started.wait()
time.sleep(0.02)
refused(one.close)
caller.join()
one.close()
context.close()
context.close()
refused(attention.forward, context, out)
with Context() as again:
    pass
refused(attention.forward, again, out)
"""
SAID = """\
ValueError: key has shape (1, 2, 8, 7), expected (1, 2, 8, 8)
ValueError: value has shape (1, 2, 7, 8), expected (1, 2, 8, 8)
ValueError: out has shape (1, 2, 7, 8), expected (1, 2, 8, 8)
ValueError: out overlaps query in memory, expected memory of its own
ValueError: Buffer dtype mismatch, expected 'const float' but got 'double'
ValueError: scales: 3, expected one for each of the 2 heads
ValueError: outs: 2 results, expected 1 as there are queries
ValueError: logsumexp has shape (1, 2, 7, 1), expected (1, 2, 8, 1)
ValueError: buffer source array is read-only
TypeError: Argument 'context' has incorrect type (expected cyattention.Context, got NoneType)
ValueError: options.num_threads is -1, expected 0 (auto) or more
RuntimeError: context: 1 calls are running, expected none when it is closed
ValueError: context: is closed, expected an open one
ValueError: context: is closed, expected an open one
"""


@pytest.fixture(scope="module")
def settings():
    """Finds this interpreter as python, and mfa where this process found it."""
    path = os.pathsep.join(filter(None, [str(Path(mfa.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {"PYTHONPATH": path, "PATH": programs, "CFLAGS": "-O1"}


@pytest.fixture(scope="module")
def built(tmp_path_factory, settings):
    """(what the README's first command printed, the folder above the copy that it built)."""
    require_tool("cc", "apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("cython")
    return printed("cython", folder, **settings), folder


def test_cython(built):
    said, _ = built
    # What Cython says of its work goes first.
    assert_known("".join(line for line in said.splitlines(keepends=True) if "cyattention" not in line))


def test_cython_times(built, settings):
    assert TIMED.fullmatch(printed("cython", built[1], which=1, **settings))


def python(built, settings, *arguments, **more):
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=built[1] / "cython",
        env={**os.environ, **settings, **more},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_mistakes_are_exceptions(built, settings):
    done = python(built, settings, "-c", REFUSED)
    assert done.stdout == SAID, done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not preload into such programs")
def test_older_library_is_refused(built, settings, older_library):
    done = python(built, settings, "known_values.py", LD_PRELOAD=str(older_library))
    assert done.returncode == 1
    assert f"ImportError: libmfa is version 0.0.9, expected {mfa.__version__} or later" in done.stderr

"""The source tree that the tests belong to, and libmfa installed from it."""

import functools
import os
import re
import subprocess
import tempfile
from pathlib import Path

from support.once import locked
from support.tools import require_tool

ROOT = Path(__file__).resolve().parents[2]
FUZZ_BUILD = ("BUILD=fuzz", "CC=clang-19", "METAL=none", f"-j{os.cpu_count()}")  # of make, for build/fuzz
PKG_CONFIG = ("pkg-config", "apt-get install pkg-config")


def code_block(document, language):
    """The only fenced block of `language` in a Markdown file, and its output: the text block after it."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = re.findall(rf"```{language}\n(.*?)```.*?```text\n(.*?)```", text, flags=re.DOTALL)
    assert len(found) == 1, f"{document} has {len(found)} {language} blocks with output, expected 1"
    return found[0]


def run(*command, **options):
    """Runs a command; its output on success, a failure that shows everything it said otherwise."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **options)
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0, f"{' '.join(command)} gave {done.returncode}:\n{said}"
    return said


def make(*arguments):
    """What make printed. One runs at a time, as workers of pytest-xdist have one folder build/."""
    with locked(ROOT / "build/make.lock"):
        return run("make", "-s", *arguments, cwd=ROOT, env=make_env())


@functools.cache
def installed_prefix():
    """A folder that `make install` has filled; removed when the interpreter ends."""
    folder = tempfile.TemporaryDirectory(prefix="mfa-install-")
    _keep_until_exit.append(folder)
    make("install", f"PREFIX={folder.name}")
    return Path(folder.name)


_keep_until_exit = []


def make_env():
    """The environment without what an outer make left in it for inner ones."""
    ours = {"BUILD", "DESTDIR", "MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "PREFIX"}
    return {name: value for name, value in os.environ.items() if name not in ours}


def installed_env():
    """An environment in which pkg-config and the dynamic loader find the installed library."""
    lib = installed_prefix() / "lib"
    loader = "DYLD_LIBRARY_PATH" if os.uname().sysname == "Darwin" else "LD_LIBRARY_PATH"
    return {**make_env(), "PKG_CONFIG_PATH": str(lib / "pkgconfig"), loader: str(lib)}


def pkg_config(*arguments):
    pkg_config_program = require_tool(*PKG_CONFIG)
    return run(pkg_config_program, *arguments, "mfa", env=installed_env()).split()

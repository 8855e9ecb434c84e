"""What several tests of the Metal backend start from."""

import collections

import pytest
from support.emulated import objc_flags
from support.flags import INCLUDES, WARNINGS
from support.source_tree import ROOT, make_env, run


@pytest.fixture(scope="session")
def specialisations(library, tmp_path_factory):
    """Of each kernel, the macros that the host compiles it with."""
    binary = tmp_path_factory.mktemp("macros") / "macros"
    libraries = [
        library / "libmfa.a",
        f"-L{library}",
        "-lMetal",
        "-lgnustep-base",
        "-lobjc",
        "-lm",
        "-pthread",
    ]
    source = ROOT / "tests/metal/macros.m"
    run("clang-19", *objc_flags(), "-O1", *WARNINGS, *INCLUDES, source, "-o", binary, *libraries, cwd=ROOT)
    found = collections.defaultdict(dict)
    for line in run(binary, env=make_env() | {"LD_LIBRARY_PATH": str(library)}).splitlines():
        name, *macros = line.split()
        found[name][" ".join(macros)] = None
    return {name: list(sets) for name, sets in found.items()}

"""What the tests of several languages' examples share."""

import pytest
from support.source_tree import run
from support.tools import require_tool


@pytest.fixture(scope="module")
def older_library(tmp_path_factory):
    """What a program preloads so that libmfa says that it is of version 0.0.9."""
    folder = tmp_path_factory.mktemp("older")
    source, library = folder / "older.c", folder / "libolder.so"
    source.write_text(
        "void mfa_get_version(int *major, int *minor, int *patch) { *major = *minor = 0; *patch = 9; }\n"
    )
    run(require_tool("cc", "apt-get install gcc libc6-dev"), "-shared", "-fPIC", source, "-o", library)
    return library

"""The Go package: its program and its own tests, these under the race detector."""

import subprocess
import sys

import pytest
from support.examples import EXAMPLES, TIMED, assert_known, printed
from support.source_tree import PKG_CONFIG, installed_env, run
from support.tools import require_tool

GO = ("go", "apt-get install golang-go")


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """A folder for the module and what is built of it, once for all tests, and the settings that go there."""
    require_tool(*GO)
    require_tool(*PKG_CONFIG)
    folder = tmp_path_factory.mktemp("go-module")
    settings = {
        "GOCACHE": str(folder / "cache"),
        "GOPROXY": "off",
        "GOFLAGS": "-mod=mod -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GODEBUG": "cgocheck=1",  # panics where C is handed a pointer to Go pointers
        "CGO_ENABLED": "1",
    }
    return folder, settings


def test_go(module):
    folder, settings = module
    assert_known(printed("go", folder, **settings))


def test_go_times(module):
    folder, settings = module
    assert TIMED.fullmatch(printed("go", folder, which=1, **settings))


def test_package_s_own_tests(module):
    """`go test` vets the packages, too."""
    folder, settings = module
    printed("go", folder, **settings)
    said = run(
        "go", "test", "-race", "-vet=all", "./...", cwd=folder / "go", env={**installed_env(), **settings}
    )
    assert "ok  \texample.org/mfa-example/mfa\t" in said


def test_sources_are_formatted():
    require_tool("gofmt", "apt-get install golang-go")
    assert run("gofmt", "-d", EXAMPLES / "go") == ""


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not preload into such programs")
def test_older_library_is_refused(module, older_library):
    folder, settings = module
    printed("go", folder, **settings)
    env = {**installed_env(), **settings, "LD_PRELOAD": str(older_library)}
    done = subprocess.run(["go", "run", "."], capture_output=True, text=True, cwd=folder / "go", env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("libmfa is too old: it is version 0.0.9, expected ")
    assert done.stdout == ""

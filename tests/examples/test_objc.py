"""The Objective-C examples: Metal objects on a Mac or the emulated GPU."""

import re
import sys

import pytest
from support.emulated import environment, objc_flags
from support.examples import EXAMPLES, TIMED, assert_known, printed, said
from support.source_tree import PKG_CONFIG, ROOT, installed_env, pkg_config, run
from support.tools import require_tool

import mfa

CC = ("cc", "apt-get install gcc libc6-dev")
AGREEMENT = re.compile(r"largest difference from the formula: \S+\n")
REFUSED = "MFAErrorDomain 1: query reaches from byte 0 to 512 around offset 0 of a buffer of 508 bytes\n"


@pytest.fixture
def settings(request):
    """Where the example finds a GPU."""
    require_tool(*PKG_CONFIG)
    if sys.platform != "darwin":
        request.getfixturevalue("library")
        return environment(
            CLONE=str(ROOT),
            METAL_EMULATOR_MODE="checked",
            METAL_EMULATOR_FILL="unwritten",
            **{name: installed_env()[name] for name in ("PKG_CONFIG_PATH", "LD_LIBRARY_PATH")},
        )
    if not mfa.is_device_supported():
        pytest.skip("this Mac's GPU does not run the kernels")
    return {}


def test_known_values_times_and_refusal(tmp_path, settings):
    assert_known(printed("objc", tmp_path, **settings))
    assert TIMED.fullmatch(printed("objc", tmp_path, which=1, **settings))
    assert said("objc", tmp_path, "make -s refused", **settings) == REFUSED


def test_two_layers_in_a_command_buffer(tmp_path, settings):
    program, source = tmp_path / "command_buffer", EXAMPLES / "objc/command_buffer.m"
    built = ROOT / "build/metal-emulator"
    if sys.platform == "darwin":
        compiler = [require_tool(*CC), "-fno-objc-arc"]
        libraries = [
            part for name in ("Metal", "Foundation", "CoreGraphics") for part in ("-framework", name)
        ]
        command = [program]
    else:
        compiler = ["clang-19", *objc_flags()]
        libraries = [f"-L{built}", "-lMetal", "-lgnustep-base", "-lobjc", "-lm"]
        command = [ROOT / "tests/metal_emulator/run", program]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    found = pkg_config("--cflags", "--libs")
    run(*compiler, *warnings, source, "-o", program, *found, *libraries, cwd=ROOT)
    assert AGREEMENT.fullmatch(run(*command, env={**installed_env(), **settings}))

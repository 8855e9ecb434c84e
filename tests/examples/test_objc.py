"""The Objective-C examples: flat calls anywhere, Metal objects on a Mac or the emulated GPU."""

import re
import sys

import pytest
from support.emulated import environment
from support.examples import EXAMPLES, commands, printed
from support.source_tree import PKG_CONFIG, ROOT, installed_env, pkg_config, run
from support.tools import require_tool

import mfa

CC = ("cc", "apt-get install gcc libc6-dev")
AGREEMENT = re.compile(r"largest difference from the formula: \S+\n")


def test_objc(tmp_path):
    require_tool(*CC)
    require_tool(*PKG_CONFIG)
    assert AGREEMENT.fullmatch(printed("objc", tmp_path))


def test_objc_command_buffer(library):
    _, command = commands("objc")
    checked = environment(METAL_EMULATOR_MODE="checked", METAL_EMULATOR_FILL="unwritten")
    assert AGREEMENT.fullmatch(run("sh", "-euc", command, cwd=ROOT, env=checked))


@pytest.mark.skipif(
    sys.platform != "darwin", reason="for a GPU of Apple's; elsewhere the emulated one runs it"
)
def test_objc_command_buffer_on_a_mac(tmp_path):
    if not mfa.is_device_supported():
        pytest.skip("this Mac's GPU does not run the kernels")
    program = tmp_path / "command_buffer"
    compiler = [require_tool(*CC), "-fno-objc-arc", "-Wall", "-Wextra", "-Werror"]
    frameworks = [part for name in ("Metal", "Foundation", "CoreGraphics") for part in ("-framework", name)]
    source, flags = EXAMPLES / "objc/command_buffer.m", pkg_config("--cflags", "--libs")
    run(*compiler, source, "-o", program, *flags, *frameworks)
    assert AGREEMENT.fullmatch(run(program, env=installed_env()))

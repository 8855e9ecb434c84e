"""What `make install` leaves behind is enough to build against."""

import re
import shlex
import sys

import pytest
from support.source_tree import (
    PKG_CONFIG,
    ROOT,
    code_block,
    installed_env,
    installed_prefix,
    make,
    make_env,
    pkg_config,
    run,
)
from support.tools import require_tool

CC = ("cc", "apt-get install gcc libc6-dev")


@pytest.fixture
def c_example(tmp_path):
    source, output = code_block("README.md", "c")
    path = tmp_path / "example.c"
    path.write_text(source, encoding="ascii")
    return path, output


def header_version():
    header = (installed_prefix() / "include/mfa.h").read_text(encoding="ascii")
    return ".".join(
        re.search(rf"MFA_VERSION_{part} (\d+)", header)[1] for part in ("MAJOR", "MINOR", "PATCH")
    )


def test_readme_c_example_links_shared_library(c_example, tmp_path):
    source, output = c_example
    program = tmp_path / "example"
    run(require_tool(*CC), source, "-o", program, *pkg_config("--cflags", "--libs"))
    assert run(program, env=installed_env()) == output


def test_readme_c_example_links_static_library(c_example, tmp_path):
    source, output = c_example
    program = tmp_path / "example"
    # The archive by its name: -static would want a static libc too, which not every system has.
    libraries = [
        str(installed_prefix() / "lib/libmfa.a") if flag == "-lmfa" else flag
        for flag in pkg_config("--cflags", "--libs", "--static")
    ]
    run(require_tool(*CC), source, "-o", program, *libraries)
    assert run(program, env=make_env()) == output


def test_readme_c_example_is_the_one_in_examples(c_example):
    source, _ = c_example
    assert source.read_text(encoding="ascii") == (ROOT / "examples/c/attention.c").read_text(encoding="ascii")


def test_pkg_config_gives_the_headers_version():
    assert pkg_config("--modversion") == [header_version()]


@pytest.mark.skipif(sys.platform != "linux", reason="ELF sonames")
def test_program_asks_for_the_soname(c_example, tmp_path):
    source, _ = c_example
    program = tmp_path / "example"
    run(require_tool(*CC), source, "-o", program, *pkg_config("--cflags", "--libs"))
    needed = run(require_tool("readelf", "apt-get install binutils"), "-d", program)
    assert f"[libmfa.so.{header_version().split('.')[0]}]" in needed


def test_destdir_is_prepended_and_not_recorded(tmp_path):
    make("install", "PREFIX=/usr", f"DESTDIR={tmp_path}")
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir()}
    assert {"usr/include/mfa.h", "usr/lib/libmfa.a", "usr/lib/pkgconfig/mfa.pc"} <= installed
    description = (tmp_path / "usr/lib/pkgconfig/mfa.pc").read_text()
    assert "prefix=/usr\n" in description
    assert str(tmp_path) not in description


# What a shell, sed, make's functions or pkg-config could take for something else.
@pytest.mark.parametrize("name", ["a stage", "it's", "amp&ersand", "bar|bar", "a  b;c"])
def test_folders_with_any_name(name, tmp_path, c_example):
    prefix, stage = tmp_path / name / "my lib", tmp_path / "staged" / name
    make("install", f"PREFIX={prefix}", f"DESTDIR={stage}")
    staged = stage / prefix.relative_to("/")
    assert (staged / "include/mfa.h").is_file()
    assert f"prefix={prefix}\n" in (staged / "lib/pkgconfig/mfa.pc").read_text()
    make("uninstall", f"PREFIX={prefix}", f"DESTDIR={stage}")
    assert not [path for path in stage.rglob("*") if not path.is_dir()]
    # Nor has a piece of a name become a path of its own, here where make ran.
    pieces = {*re.split(r"[^a-z]+", name), name, "my", "lib", "my lib"} - {""}
    assert not [path for path in ROOT.iterdir() if path.name in pieces]


def test_program_builds_against_a_folder_with_a_blank(tmp_path, c_example):
    source, output = c_example
    prefix, program = tmp_path / "my lib", tmp_path / "example"
    make("install", f"PREFIX={prefix}")
    environment = {**make_env(), "PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig")}
    found = shlex.split(run(require_tool(*PKG_CONFIG), "--cflags", "--libs", "mfa", env=environment))
    run(require_tool(*CC), source, "-o", program, *found, f"-Wl,-rpath,{prefix / 'lib'}")
    assert run(program, env=make_env()) == output


def test_relative_prefix_is_of_this_folder_and_recorded_whole(tmp_path):
    make("install", "PREFIX=some where", "LIBDIR=libs", f"DESTDIR={tmp_path}")
    staged = tmp_path / ROOT.relative_to("/")
    assert (staged / "some where/include/mfa.h").is_file()
    description = (staged / "libs/pkgconfig/mfa.pc").read_text()
    assert f"prefix={ROOT / 'some where'}\nlibdir={ROOT / 'libs'}\n" in description

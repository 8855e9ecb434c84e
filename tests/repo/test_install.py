"""What `make install` leaves behind is enough to build against."""

import re
import shlex
import subprocess
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
CMAKE = ("cmake", "apt-get install cmake")
NM = ("nm", "apt-get install binutils")


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
    descriptions = {
        "usr/lib/pkgconfig/mfa.pc",
        "usr/lib/cmake/mfa/mfaConfig.cmake",
        "usr/lib/cmake/mfa/mfaConfigVersion.cmake",
    }
    assert {"usr/include/mfa.h", "usr/lib/libmfa.a", *descriptions} <= installed
    assert "prefix=/usr\n" in (tmp_path / "usr/lib/pkgconfig/mfa.pc").read_text()
    for description in descriptions:
        said = (tmp_path / description).read_text()
        assert str(tmp_path) not in said
        assert not re.search(r"@\w+@", said)


# What a shell, sed, make's functions or pkg-config could take for something else.
@pytest.mark.parametrize("name", ["a stage", "it's", "amp&ersand", "bar|bar", "a  b;c"])
def test_folders_with_any_name(name, tmp_path, c_example):
    prefix, stage = tmp_path / name / "my lib", tmp_path / "staged" / name
    make("install", f"PREFIX={prefix}", f"DESTDIR={stage}")
    staged = stage / prefix.relative_to("/")
    assert (staged / "include/mfa.h").is_file()
    assert f"prefix={prefix}\n" in (staged / "lib/pkgconfig/mfa.pc").read_text()
    make("uninstall", f"PREFIX={prefix}", f"DESTDIR={stage}")
    assert not [path for path in stage.rglob("*") if not path.is_dir() or path.name == "mfa"]
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
    assert (
        f"prefix={ROOT / 'some where'}\nlibdir={ROOT / 'libs'}\nincludedir=${{prefix}}/include\n"
        in description
    )
    config = (staged / "libs/cmake/mfa/mfaConfig.cmake").read_text()
    assert f'"{ROOT / "some where/include"}"' in config


def test_libraries_may_lie_in_the_prefix_itself(tmp_path):
    make("install", "PREFIX=/opt/mfa", "LIBDIR=/opt/mfa", f"DESTDIR={tmp_path}")
    description = (tmp_path / "opt/mfa/pkgconfig/mfa.pc").read_text()
    assert "libdir=/opt/mfa\nincludedir=${prefix}/include\n" in description


@pytest.fixture
def moved(tmp_path):
    """A prefix that is elsewhere than the library was installed."""
    before, after = tmp_path / "before", tmp_path / "after"
    make("install", f"PREFIX={before}")
    before.rename(after)
    return after


def test_pkg_config_file_of_a_moved_tree(moved, c_example, tmp_path):
    source, output = c_example
    environment = {**make_env(), "PKG_CONFIG_PATH": str(moved / "lib/pkgconfig")}
    asked = [require_tool(*PKG_CONFIG), "--define-prefix", "mfa"]
    found = shlex.split(run(*asked, "--cflags", "--libs", env=environment))
    run(require_tool(*CC), source, "-o", tmp_path / "example", *found, f"-Wl,-rpath,{moved / 'lib'}")
    assert run(tmp_path / "example", env=make_env()) == output


# What find_package is asked for, and whether 0.1.0 is that.
CMAKE_VERSIONS = {
    "0": True,
    "0.1": True,
    "0.1.0 EXACT": True,
    "0.0.9": True,
    "0.1.1": False,
    "0.2": False,
    "1": False,
    "0.0.1...<1": True,
    "0.0.1...0.1.0": True,
    "0.0.1...<0.1.0": False,
    "0.2...3": False,
}


def test_cmake_takes_both_libraries_of_a_moved_tree(moved, c_example, tmp_path):
    assert header_version() == "0.1.0", "the versions above are about another one"
    _, output = c_example
    asking = "".join(
        f'find_package(mfa {asked} QUIET CONFIG)\nmessage(STATUS "{asked}: ${{mfa_FOUND}}")\n'
        for asked in CMAKE_VERSIONS
    )
    project = tmp_path / "project"
    project.mkdir()
    (project / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.19)\nproject(example C)\n{asking}"
        "find_package(mfa 0.1 REQUIRED CONFIG)\n"
        "add_executable(shared ../example.c)\ntarget_link_libraries(shared PRIVATE mfa::mfa)\n"
        "add_executable(static ../example.c)\ntarget_link_libraries(static PRIVATE mfa::mfa_static)\n"
    )
    cmake = require_tool(*CMAKE)
    said = run(cmake, "-S", project, "-B", project, f"-DCMAKE_PREFIX_PATH={moved}")
    for asked, is_found in CMAKE_VERSIONS.items():
        assert f"{asked}: {int(is_found)}\n" in said
    run(cmake, "--build", project)
    for program in ("shared", "static"):
        assert run(project / program, env=make_env()) == output


def test_cmake_files_find_headers_from_libraries_two_folders_down(tmp_path):
    make("install", "PREFIX=/usr", "LIBDIR=/usr/lib/any", f"DESTDIR={tmp_path}")
    config = (tmp_path / "usr/lib/any/cmake/mfa/mfaConfig.cmake").read_text()
    assert '"../../include" ABSOLUTE BASE_DIR' in config


@pytest.mark.parametrize("name", ["libmfa.a", "libmfa.dylib" if sys.platform == "darwin" else "libmfa.so"])
def test_only_what_the_header_declares_is_exported(name):
    if sys.platform == "darwin":
        flags = ["-gU"]
    else:
        flags = ["--defined-only", "-g" if name.endswith(".a") else "-D"]
    said = run(require_tool(*NM), *flags, installed_prefix() / "lib" / name)
    exported = {line.split()[2].removeprefix("_") for line in said.splitlines() if len(line.split()) == 3}
    assert sorted(exported) == (ROOT / "tests/abi/symbols.txt").read_text().splitlines()


def test_compiler_that_is_not_there():
    made = subprocess.run(
        ["make", "-s", "lib", "CC=nocc"],
        cwd=ROOT,
        env=make_env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode != 0
    assert "make: there is no C compiler 'nocc'; on Debian or Ubuntu: apt-get install gcc\n" in made.stderr

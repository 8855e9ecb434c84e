"""The rules of the source tree: who may include whom, what the library may call, what must compile."""

import re

import pytest
from support.flags import CORE, INCLUDES, WARNINGS, flags
from support.source_tree import ROOT, make_env, run
from support.tools import require_tool

C_SUFFIXES = {".c", ".h", ".m", ".metal", ".inc"}
SOURCES = sorted(path for path in (ROOT / "src").rglob("*") if path.suffix in C_SUFFIXES)
KERNELS = sorted(path for path in (ROOT / "metal").rglob("*") if path.suffix in C_SUFFIXES)
PUBLIC = ROOT / "include/mfa.h"
COMPILERS = {
    "gcc": ("gcc", "apt-get install gcc libc6-dev"),
    "g++": ("g++", "apt-get install g++"),
    "clang": ("clang-19", "apt-get install clang-19"),
    "clang++": ("clang++-19", "apt-get install clang-19"),
}

# Who may include whom. A folder may always include itself.
ALLOWED = {
    "core": {"mfa.h"},
    "attn": {"mfa.h", "core", "metal kernels"},
    "cpu": {"mfa.h", "core", "attn", "metal kernels"},
    "metal": {"mfa.h", "core", "attn", "metal kernels"},
}


def relative(path):
    return path.relative_to(ROOT).as_posix()


def includes(path):
    return re.findall(
        r'^\s*#\s*(?:include|import)\s*"([^"]+)"', path.read_text(encoding="utf-8"), flags=re.MULTILINE
    )


def layer_of(name, path):
    """Which layer the file included as `name` from `path` belongs to."""
    if name == "mfa.h":
        return "mfa.h"
    candidates = (path.parent / name, ROOT / "src" / name, ROOT / "metal" / name)
    found = next((candidate.resolve() for candidate in candidates if candidate.is_file()), None)
    assert found, f"{relative(path)} includes {name}, which is nowhere"
    parts = found.relative_to(ROOT).parts
    return "metal kernels" if parts[0] == "metal" else parts[1]


def listed_files():
    """Every file that is, or could be, committed."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def without_comments_and_strings(path):
    text = path.read_text(encoding="utf-8")
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.DOTALL)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_includes_point_down(path):
    layer = path.relative_to(ROOT / "src").parts[0]
    for name in includes(path):
        included = layer_of(name, path)
        assert included == layer or included in ALLOWED[layer], f"{layer} may not include {name}"


def test_kernels_include_only_each_other():
    for path in KERNELS:
        for name in includes(path):
            assert layer_of(name, path) == "metal kernels", f"{relative(path)} includes {name}"


def test_only_the_registry_names_backends():
    naming = re.compile(r"\bmfai_(?:cpu|metal)_backend\b")
    naming_files = {relative(path) for path in SOURCES if naming.search(without_comments_and_strings(path))}
    assert {name for name in naming_files if name.startswith(("src/core/", "src/attn/"))} == {
        "src/core/registry.c"
    }


def test_bindings_and_examples_know_only_the_public_header():
    c_include = re.compile(r'^\s*(?://\s*)?#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
    cython_include = re.compile(r"cdef extern from\s+[\"']([^\"'<>]+)[\"']")
    headers = {path.name for path in [*SOURCES, *KERNELS] if path.suffix == ".h"}
    listed = listed_files()  # without what Cython makes of the sources
    for path in [*(ROOT / "mfa").iterdir(), *(ROOT / "examples").rglob("*")]:
        pattern = {".pxd": cython_include, ".pyx": cython_include}.get(path.suffix, c_include)
        if path.suffix in {".c", ".go", ".m", ".pxd", ".pyx"} and path in listed:
            included = pattern.findall(path.read_text(encoding="utf-8"))
            # An example may have a header of its own.
            others = {name for name in included if not path.with_name(name).exists()}
            assert not {name for name in others if name.split("/")[-1] in headers}, relative(path)


def test_c_sources_are_ascii():
    for path in [PUBLIC, *SOURCES, *KERNELS]:
        assert path.read_bytes().isascii(), relative(path)


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_library_never_prints_or_ends_the_process(path):
    forbidden = re.compile(r"\b(?:v?f?printf|puts|fputs|perror|_?exit|_Exit|abort|assert|NSLog|raise)\s*\(")
    assert not forbidden.findall(without_comments_and_strings(path))


def test_every_c_unit_test_is_run():
    tests = ROOT / "tests"
    folders = {path.parent for path in tests.rglob("*_test.c")}
    assert folders == {path.parent for path in tests.rglob("test_c.py")} - {tests / "examples"}


def test_no_path_of_one_machine():
    # Split, so that this file does not contain what it looks for.
    folders = ("/ho" + "me/", "/ro" + "ot/", "/wo" + "rk/", "/Us" + "ers/")
    pattern = re.compile("|".join(rf"(?<![\w.]){folder}\w" for folder in folders))
    for path in listed_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        assert not pattern.findall(text), relative(path)


@pytest.mark.parametrize(
    ("compiler", "standard"), [("gcc", "c99"), ("clang", "c99"), ("g++", "c++11"), ("clang++", "c++11")]
)
def test_public_header_is_strict_c99_and_cxx11(compiler, standard, tmp_path):
    program = require_tool(*COMPILERS[compiler])
    source = tmp_path / ("header.cc" if standard.startswith("c++") else "header.c")
    # Twice, for the guard; the initialisers are code only once they are used.
    source.write_text(
        '#include "mfa.h"\n#include "mfa.h"\n'
        "mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;\n"
        "mfa_context_info_t info = MFA_CONTEXT_INFO_INIT;\n"
        "mfa_tensor_t tensor = MFA_TENSOR_INIT;\nmfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;\n"
        "mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;\n"
        "mfa_plan_t plan = MFA_PLAN_INIT;\n"
    )
    strict = ["-pedantic", *WARNINGS, f"-std={standard}"]
    run(program, *strict, "-I", ROOT / "include", "-c", source, "-o", tmp_path / "header.o")


def test_library_compiles_without_a_warning(tmp_path):
    """With clang, up to code that is not optimised yet: it warns of no more later. In `.ci/run`, what make
    compiles is without warnings too: with gcc, for the emulator, for the fuzz targets.

    Hardened: checked copies bring headers' own inline functions into the regions of other instruction sets.
    """
    program = require_tool(*COMPILERS["clang"])
    sources = [path for path in SOURCES if path.suffix == ".c"]
    options = [*flags("RELEASE"), *CORE, *flags("HARDENING"), *INCLUDES]
    run(program, *options, "-emit-llvm", "-Xclang", "-disable-llvm-passes", "-c", *sources, cwd=tmp_path)


def test_every_build_in_ci_is_without_warnings():
    assert re.search(r"^export .*\bWERROR=-Werror\b", (ROOT / ".ci/run").read_text(), flags=re.MULTILINE)
    said = run("make", "-n", "-B", "-C", ROOT, "lib", env={**make_env(), "WERROR": "-Werror"})
    compiled = [line for line in said.splitlines() if " -c src/" in line]
    assert compiled
    assert all(" -Werror " in line for line in compiled)

"""The Julia module and its program: run where Julia is; parsed, and declarations checked, anywhere."""

import re
import shutil
import sys

import pytest
from support.examples import EXAMPLES, TIMED, assert_known, known_values, printed
from support.header import constants, functions, initial_values, structs
from support.source_tree import PKG_CONFIG, installed_env, run
from support.syntax import nodes, parse, text
from support.tools import require_tool

FOLDER = EXAMPLES / "julia"
SOURCES = sorted(FOLDER.rglob("*.jl"))
DECLARATIONS = (FOLDER / "src/c.jl").read_text(encoding="utf-8")
C_TYPES = {
    "Int32": {"int32_t", "mfa_status_t", "mfa_precision_t"},
    "UInt32": {"uint32_t"},
    "Int64": {"int64_t"},
    "UInt64": {"uint64_t"},
    "Float32": {"float"},
    "Cvoid": {"void"},
    "Cstring": {"char *"},
    "Ptr{Cint}": {"int *"},
    "Ptr{Ptr{Cvoid}}": {"mfa_context_t *", "mfa_buffer_t *"},
    "NTuple{4,Int64}": {"int64_t [4]"},
}
HANDLES = {"mfa_context_t", "mfa_buffer_t"}


def require_julia(tmp_path):
    """Not among what every machine of the project must have: .github/workflows/languages.yml runs these."""
    if shutil.which("julia") is None:
        pytest.skip("julia is not installed: see julialang.org/install")
    require_tool(*PKG_CONFIG)
    return {"JULIA_DEPOT_PATH": str(tmp_path / "depot"), "JULIA_PKG_SERVER": ""}


def test_julia(tmp_path):
    assert_known(printed("julia", tmp_path, **require_julia(tmp_path)))


def test_julia_times(tmp_path):
    assert TIMED.fullmatch(printed("julia", tmp_path, which=1, **require_julia(tmp_path)))


def test_module_s_own_tests(tmp_path):
    settings = require_julia(tmp_path)
    run("julia", "--project=.", "test/runtests.jl", cwd=FOLDER, env={**installed_env(), **settings})


@pytest.mark.skipif(sys.platform == "darwin", reason="the older library is an ELF file")
def test_older_library_is_refused(tmp_path, older_library):
    settings = require_julia(tmp_path)
    # What Julia calls it finds in the library that it has opened, not in one that was preloaded.
    shutil.copyfile(older_library, tmp_path / "libmfa.so")
    paths = dict.fromkeys(["LD_LIBRARY_PATH", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR"], str(tmp_path))
    older = {**installed_env(), **settings, **paths}
    program = "try; using MFA; catch error; print(sprint(showerror, error)); end"
    assert "is mfa 0.0.9, expected at least 0.1.0" in run(
        "julia", "--project=.", "-e", program, cwd=FOLDER, env=older
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_is_julia(path):
    parse("julia", path)


def fits(julia, c):
    """Whether a type of Julia's is what C has, or a pointer that says less of what it points to."""
    if c in C_TYPES.get(julia, set()):
        return True
    pointed = re.fullmatch(r"Ptr\{(.*)\}", julia)
    return bool(pointed) and (
        (pointed[1] == "Cvoid" and (c.endswith("*") or c in HANDLES)) or c == f"{pointed[1]} *"
    )


def test_calls_are_those_of_the_header():
    declared, called = functions(), set()
    for path in SOURCES:
        found = [
            node for node in nodes(parse("julia", path), "macrocall_expression") if "@ccall" in text(node)[:6]
        ]
        for node in found:
            call = re.fullmatch(r"@ccall libmfa\.(mfa_\w+)\((.*?),?\s*\)::(\w+)", text(node), flags=re.DOTALL)
            name, arguments, returned = call.groups()
            called.add(name)
            types = re.findall(r"::([\w{}]+)", arguments)
            expected, parameters = declared[name]
            assert fits(returned, expected), f"{name} gives {expected}"
            assert len(types) == len(parameters), name
            for julia, c in zip(types, parameters, strict=True):
                assert fits(julia, c), f"{name}: {julia} for {c}"
    assert called == set(re.findall(r"\bmfa_\w+(?=\()", DECLARATIONS)) - {"mfa_status_t"}
    assert "mfa_attention_backward_desc" in called


def declared_structs():
    found = re.findall(r"@kwdef struct (\w+)\n(.*?)\nend", DECLARATIONS, flags=re.DOTALL)
    assert len(found) == DECLARATIONS.count("struct mfa_")
    return {name: re.findall(r"(\w+)::(\S+) = (.*)", body) for name, body in found}


def test_structs_are_those_of_the_header():
    """Fields of the same types in the same order lie at the same places: Julia lays structs out as C does."""
    for name, fields in declared_structs().items():
        assert [field for field, _, _ in fields] == [field for _, field in structs()[name]], name
        for (field, julia, _), (c, _) in zip(fields, structs()[name], strict=True):
            assert fits(julia, c), f"{name}.{field}: {julia} for {c}"


def test_structs_begin_as_the_header_has_them():
    known = {**constants(), "NULL": 0, "C_NULL": 0, "(0, 0, 0, 0)": 0}

    def number(value):
        return known[value] if value in known else float(value.rstrip("uf"))

    for name, fields in declared_structs().items():
        (_, _, size), *others = fields
        assert size == f"sizeof({name})"
        for (field, _, ours), theirs in zip(others, initial_values()[name][1:], strict=True):
            assert number(ours) == number(theirs), f"{name}.{field}"


def test_constants_are_those_of_the_header():
    found = re.findall(r"^const (MFA_\w+) = U?Int32\((-?\d+)\)$", DECLARATIONS, flags=re.MULTILINE)
    assert len(found) == DECLARATIONS.count("const MFA_")
    for name, value in found:
        assert constants()[name] == int(value), name
    version = tuple(constants()[f"MFA_VERSION_{part}"] for part in ("MAJOR", "MINOR", "PATCH"))
    assert f"const HEADER_VERSION = {version}" in DECLARATIONS


@pytest.mark.parametrize("name", sorted(known_values()))
def test_known_value(name):
    """What the program compares with is what the oracle says."""
    program = (FOLDER / "attention.jl").read_text(encoding="utf-8")
    [numbers] = re.findall(rf'expect\("{name}", .*?, \[([-\d., ]+)\]\)', program)
    assert [float(number) for number in numbers.split(",")] == pytest.approx(known_values()[name], abs=1e-6)

"""Kernels and host use no name of Metal or Foundation that is not in a list with its public source."""

import csv
import re
import subprocess
import sys

import pytest
from metal_emulator.host import api
from support.emulated import EMULATOR, objc_flags
from support.flags import INCLUDES
from support.kernels import KERNELS, source_of
from support.source_tree import ROOT, run

HOST_SOURCES = sorted((ROOT / "src/metal").glob("*.[hm]"))
COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.DOTALL)


def listed(path, fields):
    """The rows of a list, each with a source."""
    with open(EMULATOR / path, encoding="ascii", newline="") as lines:
        header, *rows = csv.reader(line for line in lines if not line.startswith("# "))
    assert header == fields
    assert all(row[-1] for row in rows)
    return rows


# ---------------------------------------------------------------- kernels


def names_used(folder, source, macros):
    request = ["math safe", "language 3.1", *(f"macro {macro.replace('=', ' ')}" for macro in macros)]
    (folder / "source").write_text(source)
    (folder / "request").write_text("\n".join(request) + "\n")
    command = [sys.executable, "-SE", EMULATOR / "compiler/names.py", folder, "clang-19"]
    return set(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    )


def listed_for_kernels():
    return {name for name, kind, source in listed("msl_names.csv", ["name", "kind", "source"])}


def test_names_that_kernels_use(specialisations, tmp_path):
    """The first and the last of each kernel, which lie at opposite ends of the tile table."""
    used = set()
    for kernel in KERNELS:
        for macros in {specialisations[kernel][0], specialisations[kernel][-1]}:
            used |= names_used(tmp_path, source_of(kernel), macros.split())
    assert used - listed_for_kernels() == set(), "used, but not listed with a public source"
    assert listed_for_kernels() - used == set(), "listed, but not used"


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        ("inline float f(float x) { return simd_product(x); }", "simd_product"),
        ("inline float f(float x) { return fast::log2(x); }", "fast::log2"),
        ("inline void f() { simdgroup_barrier(mem_flags::mem_none); }", "mem_flags::mem_none"),
        ("typedef short4 mfa_four;", "short4"),
        ("constant float much = MAXFLOAT;", "MAXFLOAT"),
    ],
)
def test_name_that_is_not_listed_is_noticed(specialisations, tmp_path, planted, name):
    opening = "using namespace metal;\n"
    source = source_of("combine")
    assert source.count(opening) == 1
    used = names_used(
        tmp_path, source.replace(opening, f"{opening}{planted}\n"), specialisations["combine"][0].split()
    )
    assert name in used - listed_for_kernels()


# ---------------------------------------------------------------- host


def methods_of_metal():
    for name in api.listed():
        if name.kind == "method":
            yield name.name
        elif name.kind == "property":
            getter = re.search(r"getter=(\w+)", name.value)
            yield getter[1] if getter else name.name
            if "readonly" not in name.value:
                yield f"set{name.name[0].upper()}{name.name[1:]}:"


def foundation(kinds):
    rows = listed("host/foundation.csv", ["kind", "name", "source"])
    return {name for kind, name, source in rows if kind in kinds}


def selectors_sent(source):
    """As the compiler sees them, and those that the source names."""
    command = ["clang-19", *objc_flags(), *INCLUDES, "-fsyntax-only", "-Xclang", "-ast-dump", source]
    tree = run(*command, cwd=ROOT)
    sent = set(re.findall(r"\bObjCMessageExpr .*?\bselector=([\w:]+)", tree))
    text = source.read_text(encoding="ascii")
    return sent | set(re.findall(r'(?:@selector\(|NSSelectorFromString\(@")([\w:]+)', text))


def test_selectors():
    known, used = {*methods_of_metal(), *foundation({"selector"})}, set()
    for source in HOST_SOURCES:
        if source.suffix == ".m":
            used |= selectors_sent(source)
    assert used - known == set()
    assert foundation({"selector"}) - used == set(), "listed, but not used"


def test_classes_protocols_functions_and_constants():
    """Every word that looks like a name of the system's."""
    known = {name.name for name in api.listed()} | foundation({"class", "function", "type"})
    used = set()
    for source in HOST_SOURCES:
        text = COMMENT_OR_STRING.sub(" ", source.read_text(encoding="ascii"))
        used |= set(re.findall(r"\b(?:MTL|NS)[A-Z]\w*", text))
    assert len(used) > 30
    assert used - known == set()


def test_keys_are_properties():
    """What is set by name, for systems that may not have it."""
    properties = {name.name for name in api.listed() if name.kind == "property"}
    keys = {key for source in HOST_SOURCES for key in re.findall(r'forKey:@"(\w+)"', source.read_text())}
    assert {"mathMode", "fastMathEnabled"} <= keys <= properties


def test_selector_that_is_not_listed_is_noticed(tmp_path):
    """GNUstep has it, Apple has not."""
    source = tmp_path / "source.m"
    source.write_text(
        "#import <Metal/Metal.h>\nvoid f(NSString *s, id o);\n"
        "void f(NSString *s, id o) {\n"
        "    [s substringFromRange:NSMakeRange(0, 1)];\n    [o performSelector:@selector(unheard:)];\n}\n"
    )
    sent = selectors_sent(source)
    assert {"substringFromRange:", "unheard:"} <= sent - {*methods_of_metal(), *foundation({"selector"})}

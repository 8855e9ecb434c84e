"""The Rust crate: its program, its own tests, and its declarations against mfa.h."""

import re
import subprocess
import sys

import pytest
from support.examples import EXAMPLES, TIMED, assert_known, printed
from support.source_tree import PKG_CONFIG, ROOT, installed_env, run
from support.tools import require_tool

CC = ("cc", "apt-get install gcc libc6-dev")
DECLARATIONS = (EXAMPLES / "rust/src/sys.rs").read_text(encoding="utf-8")
OFFLINE = {"CARGO_NET_OFFLINE": "true", "CARGO_TERM_COLOR": "never"}
C_TYPES = {
    "i32": "int32_t",
    "u32": "uint32_t",
    "i64": "int64_t",
    "u64": "uint64_t",
    "usize": "size_t",
    "f32": "float",
    "f64": "double",
    "c_char": "char",
    "c_int": "int",
    "c_void": "void",
}


@pytest.fixture(scope="module")
def crate(tmp_path_factory):
    """The folder that the crate is copied into and built in, once for all tests."""
    require_tool("cargo", "apt-get install cargo")
    require_tool(*PKG_CONFIG)
    return tmp_path_factory.mktemp("rust")


def cargo(crate, *arguments, **settings):
    """What cargo did in the crate, which was built there before."""
    env = {**installed_env(), **OFFLINE, **settings}
    return subprocess.run(
        ["cargo", *arguments], capture_output=True, text=True, timeout=600, cwd=crate / "rust", env=env
    )


def test_rust(crate):
    assert_known(printed("rust", crate, **OFFLINE))


def test_rust_times(crate):
    assert TIMED.fullmatch(printed("rust", crate, which=1, **OFFLINE))


def test_crate_s_own_tests(crate):
    printed("rust", crate, **OFFLINE)
    done = cargo(crate, "test", "--release")
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    passed = [int(count) for count in re.findall(r"test result: ok\. (\d+) passed; 0 failed", done.stdout)]
    # Those of tests/binding.rs, and the programs in the documentation.
    assert len(passed) == 2
    assert min(passed) >= 3


def test_build_says_where_libmfa_was_looked_for(crate, tmp_path):
    printed("rust", crate, **OFFLINE)
    done = cargo(crate, "build", "--release", PKG_CONFIG_PATH=str(tmp_path), PKG_CONFIG_LIBDIR=str(tmp_path))
    assert done.returncode != 0
    assert "does not find libmfa" in done.stderr
    assert f'PKG_CONFIG_PATH, which is "{tmp_path}"' in done.stderr
    done = cargo(crate, "build", "--release", PKG_CONFIG=str(tmp_path / "nowhere"))
    assert "cannot run" in done.stderr
    assert "apt-get install pkg-config" in done.stderr


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not preload into such programs")
def test_older_library_is_refused(crate, older_library):
    printed("rust", crate, **OFFLINE)
    done = cargo(crate, "run", "--release", "--quiet", LD_PRELOAD=str(older_library))
    assert done.returncode == 1
    assert done.stderr.startswith("libmfa is version 0.0.9, expected ")


def in_c(rust_type, name):
    """`name` declared in C with what Rust calls `rust_type`."""
    rust_type = rust_type.strip()
    if array := re.fullmatch(r"\[(\w+); (\d+)\]", rust_type):
        return in_c(array[1], f"{name}[{array[2]}]")
    if pointer := re.fullmatch(r"\*(const|mut) (.*)", rust_type):
        return f"{'const ' * (pointer[1] == 'const')}{in_c(pointer[2], f'*{name}')}"
    return f"{C_TYPES.get(rust_type, rust_type)} {name}"


def fields_of(body):
    return re.findall(r"pub (\w+): ([^,]+),", body)


def test_declarations_are_those_of_the_header(tmp_path):
    """A C compiler is given the header and, after it, all that sys.rs says, as C."""
    structs = {
        name: fields_of(body)
        for name, body in re.findall(r"pub struct (\w+_t) \{\n(.*?)\n\}", DECLARATIONS, flags=re.DOTALL)
    }
    functions = re.findall(r"pub fn (mfa_\w+)\((.*?)\)(?: -> ([^;]+))?;", DECLARATIONS, flags=re.DOTALL)
    constants = re.findall(r"pub const (MFA_\w+): (\w+) = (-?\d+);", DECLARATIONS)
    aliases = re.findall(r"pub type (\w+) = ([^;]+);", DECLARATIONS)
    initials = dict(
        re.findall(r"^initial!\((\w+) \{(.*?)\}\);", DECLARATIONS, flags=re.DOTALL | re.MULTILINE)
    )
    # Nothing was passed over.
    assert len(structs) == DECLARATIONS.count("pub struct ") - 2  # the handles' structs are opaque
    assert len(functions) == DECLARATIONS.count("pub fn ")
    assert len(constants) == DECLARATIONS.count("pub const ") - 1  # INIT
    assert initials.keys() == structs.keys()

    lines = ["#include <string.h>", "#include <mfa.h>"]
    for name, rust_type in aliases:
        handle = re.fullmatch(r"\*mut (\w+)", rust_type)
        # C11 lets a type be named twice, if it is the same one.
        lines.append(f"typedef {f'struct {handle[1]} *{name}' if handle else in_c(rust_type, name)};")
    for name, parameters, returned in functions:
        types = re.findall(r"\w+: ([^,]+)", parameters)
        listed = ", ".join(in_c(rust_type, "") for rust_type in types)
        lines.append(f"{in_c(returned or 'c_void', name)}({listed or 'void'});")
    lines += [f'_Static_assert({name} == {value}, "{name}");' for name, _, value in constants]
    for name, fields in structs.items():
        lines.append(
            f"typedef struct {{ {' '.join(in_c(of, field) + ';' for field, of in fields)} }} rust_{name};"
        )
        lines.append(f'_Static_assert(sizeof(rust_{name}) == sizeof({name}), "{name}");')
        for field, _ in fields:
            lines.append(
                f'_Static_assert(offsetof(rust_{name}, {field}) == offsetof({name}, {field}), "{field}");'
            )
            # Of the same type, or these are pointers to different ones, which -Werror refuses.
            lines.append(
                f"void {name}_{field}(void) {{ rust_{name} rust; {name} *header = 0;"
                f" __typeof__(rust.{field}) *same = &header->{field}; (void)same; }}"
            )
    compared = []
    for name, body in initials.items():
        values = "".join(f", .{field} = {value}" for field, value in re.findall(r"(\w+): ([\w-]+)", body))
        macro = name.removesuffix("_t").upper() + "_INIT"
        lines.append(f"static const {name} header_{name} = {macro};")
        lines.append(f"static const {name} rust_init_{name} = {{.struct_size = sizeof({name}){values}}};")
        compared.append(f"memcmp(&header_{name}, &rust_init_{name}, sizeof({name}))")
    lines.append(f"int main(void) {{ return ({' || '.join(compared)}) != 0; }}")
    source, program = tmp_path / "declarations.c", tmp_path / "declarations"
    source.write_text("\n".join(lines))
    run(require_tool(*CC), "-std=gnu11", "-Werror", "-I", ROOT / "include", source, "-o", program)
    run(program)

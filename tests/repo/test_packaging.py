"""sdist and wheel: built in a clean folder, complete, and working where nothing else of the project is."""

import ast
import inspect
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import pytest
from support.elf import assert_hardened, assert_no_trace_of_the_build, run_paths
from support.flags import flags
from support.source_tree import ROOT

import mfa

LIBRARY = "libmfa.dylib" if sys.platform == "darwin" else "libmfa.so"
COMPILED = (".so", ".dylib", ".o", ".pyc")
PACKAGE_TREES = ("mfa", "src", "include", "metal")
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "*.so", "*.dylib", "__pycache__", "target", "node_modules"
)


def run(*command, cwd, env=None):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def sdist(folder):
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCES)
    shutil.rmtree(tree / "mfa" / "include", ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, tree, cwd=folder)
    [path] = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(folder, sdist):
    return build_wheel(sdist, folder / "unpacked")


def build_wheel(sdist, folder):
    """Built from the sdist, unpacked into `folder`, and nothing else."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    [tree] = folder.iterdir()
    # Less optimisation than setup.py asks for: this is about what is built, not about its speed.
    env = {**os.environ, "CFLAGS": "-O1", "SOURCE_DATE_EPOCH": "1700000000"}
    out = folder / "wheel"
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", out, tree, cwd=folder, env=env)
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(folder, wheel):
    target = folder / "installed"
    run(
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel),
        cwd=folder,
    )
    return target


def sources():
    """What a build reads, by folder: relative paths in the source tree."""
    for tree in PACKAGE_TREES:
        for path in ROOT.joinpath(tree).rglob("*"):
            relative = path.relative_to(ROOT)
            installed = relative.parts[:2] == ("mfa", "include")
            if path.is_file() and not installed and path.suffix not in COMPILED:
                yield str(relative)


def test_sdist_has_every_source(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert set(sources()) <= names
    assert {
        "setup.py",
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "docs/metal.md",
        "Makefile",
        "_mfa_torch_autoload.py",
        "packaging/compat/mfa_quantized.py",
        "tests/repo/test_packaging.py",
    } <= names
    assert not [name for name in names if name.endswith(COMPILED) or "mfa/include" in name]


def test_wheel_has_library_header_declarations_and_stubs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        library_symbols = archive.read(f"mfa/{LIBRARY}")
        header = archive.read("mfa/include/mfa.h")
        [entry_points] = (archive.read(name).decode() for name in names if name.endswith("entry_points.txt"))
    assert b"mfa_attention_forward_desc" in library_symbols
    assert header == (ROOT / "include/mfa.h").read_bytes()
    for pattern in ("*.py", "*.pxd", "*.pyi", "py.typed"):
        assert {f"mfa/{path.name}" for path in (ROOT / "mfa").glob(pattern)} <= names
    assert {"mfa/c_mfa.pxd", "mfa/capi.pxd", "mfa/py.typed"} <= names
    assert "_mfa_torch_autoload.py" in names
    assert "[torch.backends]" in entry_points
    modules = {path.stem for path in (ROOT / "mfa").glob("*.pyx")}
    built = {name.partition(".")[0].removeprefix("mfa/") for name in names if name.endswith(".so")}
    assert modules <= built
    assert not [name for name in names if name.endswith((".c", ".pyx"))]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize("cflags", [None, "", "-g"])
def test_modules_are_optimised_whatever_cflags_say(cflags, monkeypatch):
    """setuptools takes CFLAGS, even empty ones as `make` passes on, in place of Python's own flags."""
    made = []
    monkeypatch.setattr("setuptools.setup", lambda **options: made.extend(options["ext_modules"]))
    monkeypatch.delenv("CFLAGS", raising=False)
    if cflags is not None:
        monkeypatch.setenv("CFLAGS", cflags)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    assert made
    assert all(set(flags("RELEASE")) <= set(extension.extra_compile_args) for extension in made)


def public_names():
    """What mfa exports, by the module that defines it."""
    return [(sys.modules[getattr(mfa, name).__module__], name) for name in mfa.__all__]


@pytest.mark.parametrize(
    ("module", "name"), public_names(), ids=lambda value: getattr(value, "__name__", value)
)
def test_types_are_known(module, name):
    """Python modules carry their types; compiled ones have a stub, which says what the module does."""
    path = Path(module.__file__)
    thing = getattr(module, name)
    if path.suffix == ".py":
        assert not path.with_suffix(".pyi").exists()
        described = inspect.signature(thing)
        assert all(p.annotation is not p.empty for p in described.parameters.values())
        # A decorator without types of its own hides those of what it decorates from type checkers.
        functions = {
            node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
        }
        for decorator in getattr(functions.get(name), "decorator_list", ()):
            # One that a call makes is what the call returns: from a function to a function.
            is_made = isinstance(decorator, ast.Call)
            function = getattr(module, decorator.func.id if is_made else decorator.id)
            returned = get_type_hints(function).get("return")
            if is_made:
                returned = get_args(returned)[1]
            assert isinstance(returned, TypeVar), ast.unparse(decorator)
        assert inspect.isclass(thing) or described.return_annotation is not described.empty
        return
    stub = path.parent / f"{module.__name__.rpartition('.')[2]}.pyi"
    [node] = [node for node in ast.parse(stub.read_text()).body if getattr(node, "name", None) == name]
    if isinstance(node, ast.ClassDef):
        described = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        actual = {item for item in vars(thing) if not item.startswith("_")}
        assert {item for item in described if not item.startswith("_")} == actual
    else:
        signature = inspect.signature(thing)
        arguments = node.args.args + node.args.kwonlyargs
        assert [argument.arg for argument in arguments] == list(signature.parameters)


def test_installed_wheel_runs_outside_the_tree(installed, folder):
    program = """
import json, pathlib, sys
import mfa, numpy
from importlib.metadata import version
query = numpy.ones((1, 4, 2, 8), numpy.float32)
assert (mfa.attention(query, query, query, causal=True) == 1).all()
assert pathlib.Path(mfa.get_include(), "mfa.h").is_file()
assert pathlib.Path(mfa.get_library()).is_file()
assert version("universal-metal-flash-attention") == mfa.__version__
maps = pathlib.Path("/proc/self/maps")
if maps.exists():
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libmfa" in line}
    assert loaded == {mfa.get_library()}, loaded
print(mfa.__file__)
"""
    env = {**os.environ, "PYTHONPATH": str(installed)}
    place = Path(run(sys.executable, "-c", program, cwd=folder, env=env).strip())
    assert place == installed / "mfa" / "__init__.py"


def test_library_says_its_name_without_a_path(installed):
    """So that whoever links it finds it by rpath."""
    if sys.platform != "linux":
        pytest.skip("ELF")
    data = (installed / "mfa" / LIBRARY).read_bytes()
    assert b"\0libmfa.so\0" in data
    assert b"$ORIGIN" in next((installed / "mfa").glob("_call.*.so")).read_bytes()


def test_wheel_has_the_same_bytes_from_any_folder(wheel, sdist, tmp_path):
    again = build_wheel(sdist, tmp_path / "another place")
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert first.namelist() == second.namelist()
        assert [name for name in first.namelist() if first.read(name) != second.read(name)] == []
    assert again.read_bytes() == wheel.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_wheel_is_hardened_and_has_no_trace_of_its_builder(installed, folder):
    libraries = sorted((installed / "mfa").glob("*.so"))
    assert len(libraries) > 1
    for library in libraries:
        assert_hardened(library)
        assert_no_trace_of_the_build(library, folder, sys.base_prefix)
        assert run_paths(library) == ([] if library.name == LIBRARY else ["$ORIGIN"])

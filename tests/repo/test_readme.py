"""What README.md and the pages behind it show and claim is so."""

import ast
import re
import sys

import pytest
from support.emulated import EMULATOR, asked_of_metal, in_python
from support.flags import flags
from support.source_tree import ROOT, code_block, run

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "tests/metal_emulator/README.md",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("examples/**/README.md"))),
]


def test_python_example_prints_what_the_readme_says(tmp_path):
    source, output = code_block("README.md", "python")
    path = tmp_path / "example.py"
    path.write_text(source, encoding="utf-8")
    assert run(sys.executable, path, cwd=tmp_path) == output


def test_command_without_a_build_system_has_every_flag_and_source():
    page = (ROOT / "docs/c.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^cc ((?:.|\\\n)*) -o libmfa\.so -lm$", page, flags=re.MULTILINE)
    words = command.replace("\\\n", " ").split()
    sources = {path for word in words if word[0] != "-" for path in ROOT.glob(word)}
    folders = [path for path in ROOT.glob("src/*/") if path.name != "metal"]
    needed = {path for folder in folders for path in folder.glob("*.c")} | {ROOT / "src/metal/metal_stub.c"}
    assert sources == needed
    ours = [*flags("RELEASE"), *flags("CORE_FLAGS"), *flags("INCLUDES"), "-shared"]
    assert sorted(word for word in words if word[0] == "-") == sorted(ours)


def feature_rows():
    """(feature, the columns of backends, test) of each row of the feature tables."""
    for name in ("README.md", "docs/backends.md"):
        document = (ROOT / name).read_text(encoding="utf-8")
        table = re.search(r"\| Feature \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", document)[1]
        for line in table.splitlines():
            feature, *backends, test = (cell.strip() for cell in line.strip("|").split("|"))
            yield feature, backends, test


def named_test(cell):
    return re.fullmatch(r"`([a-z]+/test_\w+\.py)::(test_\w+)`", cell).groups()


@pytest.mark.parametrize(("feature", "backends", "test"), list(feature_rows()))
def test_feature_that_works_names_a_test_that_exists(feature, backends, test):
    cpu, metal = backends
    assert "yes" in backends
    assert cpu in ("yes", "-"), f"{feature}: {cpu}"
    assert metal in ("yes", "not run", "-"), f"{feature}: {metal}"
    assert named_test_is_there(*named_test(test))


def named_test_is_there(file, name):
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def promises():
    """(promise, what holds it) of each row of the table in docs/reliability.md."""
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    table = re.search(r"\| Promise \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", page)[1]
    rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [(promise, tests) for promise, tests in rows if not promise.startswith("**")]


@pytest.mark.parametrize(("promise", "tests"), promises())
def test_promise_names_what_holds_it(promise, tests):
    assert tests
    for test in tests.split(", "):
        program = re.fullmatch(r"`(tests/(?:fuzz/\w+_fuzz|(\w+)/\w+_test)\.c)`", test)
        if program is None:
            assert named_test_is_there(*named_test(test)), test
        else:
            assert (ROOT / program[1]).exists(), test
            assert not program[2] or (ROOT / "tests" / program[2] / "test_c.py").exists(), test


def test_metal_column_names_tests_that_are_asked_of_metal(library):
    cells = {feature: (backends[1], named_test(test)) for feature, backends, test in feature_rows()}
    for feature, (metal, test) in cells.items():
        is_asked = test in asked_of_metal() or test[0].startswith("metal/")
        assert metal == "-" or is_asked == (metal == "yes"), f"{feature}: {metal}"


def test_emulated_device_prints_what_is_said(library):
    page = (ROOT / "docs/metal.md").read_text(encoding="utf-8")
    command = r"^tests/metal_emulator/run \.venv/bin/python -c '(.*)'\n```\n\nprints\n\n```text\n(.*?)```"
    [(code, output)] = re.findall(command, page, flags=re.DOTALL | re.MULTILINE)
    done = in_python("-c", code)
    assert done.stdout == output, done.stderr


def targets_of(makefile, explained=""):
    found = re.findall(rf"^([a-z -]+):{explained}", makefile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return set(" ".join(found).split())


def test_every_command_it_shows_exists():
    explained = targets_of(ROOT / "Makefile", ".*## ")
    shown = set()
    for name in DOCUMENTS:
        document = (ROOT / name).read_text(encoding="utf-8")
        targets = re.findall(r"(?:^|`)make (?:-\w+ )*([a-z][a-z-]*)(?![\w/-])", document, flags=re.MULTILINE)
        own = (ROOT / name).with_name("Makefile")  # as some examples have
        assert set(targets) <= explained | (targets_of(own) if own.exists() else set()), name
        shown.update(targets)
    assert {"demo", "test"} <= shown


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_it_names_exist(name):
    document = (ROOT / name).read_text(encoding="utf-8")
    paths = set(
        re.findall(r"`((?:benchmarks|docs|examples|include|metal|mfa|src|tests)/[\w./*]*)`", document)
    )
    folders = (ROOT, (ROOT / name).parent)
    assert not {path for path in paths if not any(list(folder.glob(path)) for folder in folders)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_it_links_exist(name):
    document = (ROOT / name).read_text(encoding="utf-8")
    for link, heading in re.findall(r"\]\(([^)#:]*)#?([^)#:]*)\)", document):
        target = (ROOT / name).parent / link if link else ROOT / name
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_emulator_readme_has_every_variable():
    readme = (EMULATOR / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(METAL_EMULATOR_\w+)` \|", readme, flags=re.MULTILINE)
    headers = [(EMULATOR / name).read_text(encoding="utf-8") for name in ("host/control.h", "emulator.h")]
    environment = "".join(header.partition("- environment")[2] for header in headers)
    assert sorted(listed) == sorted(
        set(re.findall(r"METAL_EMULATOR_[A-Z_]+[A-Z]", environment)) - {"METAL_EMULATOR_H"}
    )

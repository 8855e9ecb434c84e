"""What README.md shows and claims is so."""

import ast
import re
import sys

import pytest
from source_tree import ROOT, code_block, run


def test_python_example_prints_what_the_readme_says(tmp_path):
    source, output = code_block("README.md", "python")
    path = tmp_path / "example.py"
    path.write_text(source, encoding="utf-8")
    assert run(sys.executable, path, cwd=tmp_path) == output


def feature_rows():
    """(feature, the columns of backends, test) of each row of the feature table."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"\| Feature \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", readme)[1]
    for line in table.splitlines():
        feature, *backends, test = (cell.strip() for cell in line.strip("|").split("|"))
        yield feature, backends, test


@pytest.mark.parametrize(("feature", "backends", "test"), list(feature_rows()))
def test_feature_that_works_names_a_test_that_exists(feature, backends, test):
    assert set(backends) <= {"yes", "not yet"}, f"{feature}: {backends}"
    if "yes" not in backends:
        assert test == ""
        return
    file, name = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", test).groups()
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_command_it_shows_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set()
    for name in ("README.md", "CONTRIBUTING.md"):
        document = (ROOT / name).read_text(encoding="utf-8")
        targets.update(re.findall(r"(?:^|`)make ([a-z-]+)", document, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    assert targets <= set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_it_names_exist(name):
    document = (ROOT / name).read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:benchmarks|examples|include|metal|mfa|src|tests)/[\w./*]*)`", document))
    assert paths
    assert not {path for path in paths if not list(ROOT.glob(path))}

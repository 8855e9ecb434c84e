"""``python -m mfa bench``: what it counts, prints, draws and refuses, at tiny sizes."""

import importlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from support import oracle
from support.tools import require_module

import mfa
from mfa._command import EXTRA, backends, main, peers
from mfa._command.shapes import parse

require_module("typer", EXTRA)
bench = importlib.import_module("mfa._command.bench")

TINY = ("bench", "--shape", "1x2x70x8", "--seconds", "0", "--threads", "1")


@pytest.fixture
def command(capfd, monkeypatch):
    """Runs a command line here; its status, and what it printed to both streams."""
    monkeypatch.setenv("COLUMNS", "80")

    def run_here(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return (int(ended.value.code or 0), *capfd.readouterr())

    return run_here


@pytest.fixture(scope="module")
def operands():
    return [np.random.default_rng(0).standard_normal((1, 4, 70, 8), dtype=np.float32) for _ in range(3)]


@pytest.mark.parametrize("name", bench.PATTERNS)
def test_pairs_are_those_that_are_seen(name):
    options = bench.PATTERNS[name]
    window = options.get("window", (-1, 0 if options else -1))
    for length in (1, 63, 300):
        seen = oracle.keys_in_range(length, length, window=window).sum()
        assert bench.pairs(parse(f"2x3x{length}x8"), options) == 6 * seen


@pytest.mark.parametrize("name", bench.PATTERNS)
@pytest.mark.parametrize("peer", ["NumPy", "torch"])
def test_peers_compute_the_same(operands, name, peer):
    if peer == "torch":
        require_module("torch", "pip install torch")
    query, key, value = operands[0], operands[1][:, :2], operands[2][:, :2]
    options = bench.PATTERNS[name]
    [place] = backends.best("cpu", num_threads=1)
    out = peers.of(place.info)[peer](query, key, value, options)()
    expected = mfa.attention(query, key, value, layout="bhsd", **options)
    np.testing.assert_allclose(np.asarray(out), expected, rtol=1e-5, atol=1e-5)


def test_document_has_both_tables(command):
    code, out, err = command(*TINY, "--no-peers", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    for place in document["places"]:
        assert [row["name"] for row in place["patterns"]] == list(bench.PATTERNS)
        assert [row["name"] for row in place["precisions"]] == [*bench.FLOATS, *bench.CODES]
        assert place["call_us"] > 0
        for row in place["patterns"]:
            assert row["ginstrs"] == pytest.approx(21 * row["pairs"] / row["ms"] / 1e6)
        errors = {row["name"]: row["error"] for row in place["precisions"]}
        assert errors["FP32"] < 1e-5 < errors["FP16"] < 2e-3
        assert errors["BF16"] < 2e-2
        assert errors["INT8"] < 5e-2 < errors["INT4"] < 0.5
        sizes = {row["name"]: row["bytes"] for row in place["precisions"]}
        assert (sizes["FP32"], sizes["FP16"]) == (2 * 2 * 70 * 8 * 4, 2 * 2 * 70 * 8 * 2)
        assert sizes["INT8"] == 2 * 2 * 70 * (8 + 4)  # with a scale for each row


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit(command, monkeypatch, columns):
    require_module("torch", "pip install torch")
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, err = command(*TINY, "--backend", "cpu")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    tables = [line for line in out.splitlines() if re.match(" |\u2500", line)]
    assert max(map(len, tables)) <= columns
    for name in (*bench.PATTERNS, *bench.FLOATS, *bench.CODES):
        assert len(re.findall(rf"^ {re.escape(name)} +mfa ", out, flags=re.MULTILINE)) == 1
    assert out.count("\N{FULL BLOCK}") > 20
    assert not re.search("Not timed", out)


def test_tables_are_ascii_where_nothing_else_is_printed():
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "mfa", *TINY, "--no-peers", "--backend", "cpu"],
        env={"PYTHONIOENCODING": "ascii", "PATH": ""},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"####" in done.stdout


@pytest.mark.parametrize(
    ("absent", "reason"),
    [(ModuleNotFoundError("No module named 'x'"), "No module"), (OSError("libc"), "libc")],
)
def test_broken_torch_is_said(command, monkeypatch, absent, reason):
    require_module("torch", "pip install torch")

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "torch":
                raise absent

    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    code, out, _ = command(*TINY, "--backend", "cpu")
    assert code == 0
    assert "Not timed: torch: cannot be imported: " in out
    assert reason in out


def test_peer_that_fails_is_said(command, monkeypatch):
    def failing(*_):
        raise RuntimeError("no kernel of that name")

    monkeypatch.setattr("mfa._command.peers.of", lambda info: {"NumPy": failing, "torch": "is not installed"})
    code, out, _ = command(*TINY, "--backend", "cpu")
    assert code == 0
    assert "Not timed: NumPy, Standard: no kernel of that name\n" in out
    assert "Not timed: torch: is not installed\n" in out


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_plot(command, tmp_path, ending):
    require_module("matplotlib", "pip install matplotlib")
    path = tmp_path / f"picture.{ending}"
    code, _, err = command(*TINY, "--no-peers", "--plot", path)
    assert (code, err) == (0, "")
    start = path.read_bytes()[:100]
    assert start.startswith(b"\x89PNG") if ending == "png" else b"<?xml" in start


def test_plot_without_matplotlib_names_it(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "mfa._command.plot", raising=False)
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    code, out, err = command(*TINY, "--plot", "picture.png")
    assert (code, out) == (2, "")
    assert "matplotlib is not installed: pip install matplotlib" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("name", ["picture.exe", "picture", "nowhere/picture.png", "."])
def test_plot_that_cannot_be_is_refused_before_measuring(command, tmp_path, name):
    require_module("matplotlib", "pip install matplotlib")
    code, out, err = command(*TINY, "--plot", tmp_path / name)
    assert (code, out) == (2, "")
    assert "--plot" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "1x2x70:30x8"], "as many queries as keys"),
        (["--shape", "1x2x0x8"], "no size of 0"),
        (["--shape", "1x2x8"], "'1x2x8', expected"),
        (["--seconds", "-1"], "--seconds"),
        (["--shape", "1x3:2x8x8"], "heads of keys that divide those of queries"),
    ],
)
def test_wrong_options_are_refused(command, arguments, message):
    code, out, err = command("bench", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())


def test_backend_that_is_not_here_is_said(command, monkeypatch):
    absent = backends.Place("metal", {}, None, "there is no Metal device", True)
    monkeypatch.setattr("mfa._command.backends.best", lambda *_, **__: [absent])
    code, out, err = command(*TINY, "--backend", "metal")
    assert (code, out, err) == (1, "metal: there is no Metal device\n", "")


@pytest.mark.cpu
def test_result_that_is_nan_is_shown(command, monkeypatch):
    attention = bench.attention

    def wrong(*operands, **options):
        return np.full_like(attention(*operands, **options), np.nan)

    monkeypatch.setattr(bench, "attention", wrong)
    code, out, _ = command(*TINY, "--no-peers", "--backend", "cpu")
    assert code == 0
    assert out.count(" NaN ") == 6
    code, out, _ = command(*TINY, "--no-peers", "--backend", "cpu", "--json")
    assert code == 0
    assert {row["error"] for row in json.loads(out)["places"][0]["precisions"]} == {None}

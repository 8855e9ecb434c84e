"""``python -m mfa``: what build systems ask, ``info`` and ``plan``."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.source_tree import run
from support.tools import require_module, require_tool

import mfa
from mfa._command import ANSWERS, EXTRA, main
from mfa.reports import Plan

NAMES = {"info", "plan", "check", "bench"}
VARIABLES = ("MFA_BACKEND", "MFA_NUM_THREADS", "MFA_CPU_ISA")


@pytest.fixture
def command(capfd, monkeypatch):
    """Runs a command line in this process; its status, and what it printed to both streams."""
    require_module("typer", EXTRA)
    monkeypatch.setenv("COLUMNS", "80")

    def run_here(*arguments):
        with pytest.raises(SystemExit) as ended:
            sys.exit(main([str(argument) for argument in arguments]))
        return (ended.value.code or 0, *capfd.readouterr())

    return run_here


@pytest.fixture
def document(command):
    """Runs a command line that prints JSON."""

    def parsed(*arguments, status=0):
        code, out, err = command(*arguments, "--json")
        assert (code, err) == (status, "")
        return json.loads(out)

    return parsed


def without(module, *arguments):
    """The command in a process that cannot import `module`."""
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import runpy; runpy.run_module('mfa', run_name='__main__', alter_sys=True)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_flags_need_no_extra(module):
    done = without(module, "--cflags", "--libs", "--version")
    folder = Path(mfa.get_library()).parent
    expected = [f"-I{mfa.get_include()}", f"-L{folder}", f"-Wl,-rpath,{folder}", "-lmfa", mfa.__version__]
    assert (done.returncode, shlex.split(done.stdout), done.stderr) == (0, expected, "")


@pytest.mark.parametrize("module", ["typer", "rich"])
@pytest.mark.parametrize("arguments", [[], ["info"], ["--help"], ["--cflags", "info"]])
def test_rest_names_the_extra(module, arguments):
    done = without(module, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"python -m mfa: {module} is not installed")
    assert done.stderr.endswith(f": {EXTRA}\n")
    assert "Traceback" not in done.stderr


def test_program_builds_with_the_flags(tmp_path):
    compiler = require_tool("cc", "apt-get install gcc libc6-dev")
    source = tmp_path / "program.c"
    source.write_text(
        "#include <mfa.h>\n#include <stdio.h>\n"
        "int main(void) {\n    int v[3];\n    mfa_get_version(v, v + 1, v + 2);\n"
        '    return printf("%d.%d.%d", v[0], v[1], v[2]) < 0;\n}\n'
    )
    flags = shlex.split(run(sys.executable, "-m", "mfa", "--cflags", "--libs"))
    run(compiler, source, *flags, "-o", tmp_path / "program")
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    assert run(tmp_path / "program", env=environment) == mfa.__version__


def test_flags_are_words_of_a_shell(monkeypatch):
    monkeypatch.setattr("mfa._command.get_include", lambda: "/a b/include")
    monkeypatch.setattr("mfa._command.get_library", lambda: "/a b/$c/libmfa.so")
    words = shlex.split(" ".join(ANSWERS[name]() for name in ("--cflags", "--libs")))
    assert words == ["-I/a b/include", "-L/a b/$c", "-Wl,-rpath,/a b/$c", "-lmfa"]


def test_help_lists_the_commands(command):
    code, out, _ = command("--help")
    assert code == 0
    assert set(re.findall(r"^. ([a-z]+) ", out, flags=re.MULTILINE)) == NAMES
    assert all(flag in out for flag in ANSWERS)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_command_has_help_that_fits(command, name):
    code, out, _ = command(name, "--help")
    assert code == 0
    assert f"Usage: python -m mfa {name} " in out
    assert max(map(len, out.splitlines())) <= 80


def test_flags_stand_alone(command):
    code, out, err = command("--cflags", "info")
    assert (code, out) == (2, "")
    assert "--cflags, --libs and --version" in err


# ------------------------------------------------------------------ info


def test_info_has_what_a_report_needs(document, monkeypatch):
    monkeypatch.setenv("MFA_NUM_THREADS", "1")
    found = document("info")
    assert found["library"]["version"] == mfa.__version__
    assert os.path.samefile(found["library"]["path"], mfa.get_library()) == found["library"]["is_of_package"]
    assert len(found["library"]["sha256"]) == 64
    with mfa.Context() as context:
        described = context.describe()
    assert found["default"]["device"] == described.device
    assert found["default"]["num_threads"] == 1
    assert {place["name"] for place in found["cpu"]} == {"scalar", "avx2", "avx512", "neon"}
    assert found["environment"]["MFA_NUM_THREADS"] == "1"
    assert found["system"]["cpus"] == os.cpu_count()
    assert found["python"]["packages"]["numpy"]


def test_info_says_why_not(command, document):
    places = document("info")
    absent = [place for place in places["cpu"] + places["metal"] if "reason" in place]
    assert absent
    _, out, _ = command("info")
    for place in absent:
        assert place["is_absent"]
        assert f" no: {place['reason']}\n" in out


@pytest.mark.cpu
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_info_does_without_proc(command, monkeypatch):
    """Which a container or a fresh root may lack."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path != Path("/proc/self/maps") and exists(path))
    code, out, _ = command("info")
    assert code == 0
    assert "not found among what is loaded" in out


def test_instruction_sets_are_those_that_contexts_have():
    from mfa._command.backends import ISAS

    # Of Context, whose stub says it: a name that is none is refused by those that are.
    with pytest.raises(ValueError, match="cpu_isa") as refused:
        mfa.Context(cpu_isa="none")
    assert set(re.findall(r"'(\w+)'", str(refused.value))) - {"none"} == {"auto", *ISAS}


@pytest.mark.cpu
@pytest.mark.parametrize("name", VARIABLES)
def test_info_survives_wrong_variables(command, monkeypatch, name):
    monkeypatch.setenv(name, "nonsense")
    code, out, err = command("info")
    assert (code, err) == (0, "")
    assert f'environment variable {name} is "nonsense"' in out
    assert re.search(rf"^  {name} +nonsense$", out, flags=re.MULTILINE)


def test_info_is_not_cut_where_nobody_looks(command, monkeypatch):
    monkeypatch.setenv("MFA_BACKEND", "x" * 200)
    _, out, _ = command("info")
    assert f"MFA_BACKEND    {'x' * 200}\n" in out
    assert "\x1b" not in out


def test_library_that_was_replaced_is_no_crash(command, monkeypatch):
    monkeypatch.setattr("mfa._command.machine.loaded_files", lambda: ["/nowhere/libmfa.so (deleted)"])
    code, out, _ = command("info")
    assert code == 0
    assert "/nowhere/libmfa.so (deleted)\n" in out
    monkeypatch.setattr("mfa._command.machine.loaded_files", list)
    assert command("info")[0] == 0


def test_mac_says_its_model_and_whether_it_translates(command, monkeypatch):
    """The parts that Linux does not run, with what a Mac answers."""
    answers = {"hw.memsize": "17179869184", "hw.model": "Mac14,2", "sysctl.proc_translated": "1"}
    monkeypatch.setattr("mfa._command.machine.sysctl", answers.__getitem__)
    files = [mfa.get_library()]
    monkeypatch.setattr("mfa._command.machine.loaded_files", lambda: files)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("mfa._command.machine.get_library", lambda: files[0])
    code, out, _ = command("info")
    assert code == 0
    assert "Mac14,2\n" in out
    assert "translated by Rosetta\n" in out
    assert "16.0 GiB\n" in out


# ------------------------------------------------------------------ plan


def test_plan_is_the_plan(document):
    found = document("plan", "1x4:2x5:7x16:8", "--causal", "top-left", "--lse", "--threads", 1)
    assert set(Plan.__dataclass_fields__) <= found.keys()
    assert (found["shape"], found["status"], found["num_threads"]) == ("1x4:2x5:7x16:8", 0, 1)
    assert found["scores_bytes"] == 4 * 4 * 5 * 7


def test_plan_of_gradients_is_another(document):
    forward, backward = (document("plan", "1x2x300x64", *more) for more in ([], ["--backward"]))
    assert forward["kernel"] != backward["kernel"]


@pytest.mark.parametrize("codes", ["int8", "uint8", "int4", "uint4"])
def test_plan_of_codes_takes_no_memory(document, codes):
    found = document("plan", "64x64:8x1:1000000x127", "--codes", codes, "--dtype", "bfloat16")
    assert found["status"] == 0


def test_plan_of_whole_number_products(document):
    found = document("plan", "1x2x300x64", "--codes", "int8", "--compute-mode", "int8", "--backend", "cpu")
    assert "int8" in found["kernel"]


def test_plan_says_why_not(command, document):
    shape = "1x1x1x2000000"
    found = document("plan", shape, "--backend", "cpu", status=1)
    assert found["status"] == 6
    assert found["reason"].startswith("head_dim is 2000000")
    code, out, _ = command("plan", shape, "--backend", "cpu")
    assert code == 1
    assert found["reason"] in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1x8x1024"], "'1x8x1024', expected"),
        (["1x8x-4x2"], "'1x8x-4x2', expected"),
        (["1x8x٣x2"], "expected"),
        (["1x1x999999999999999999x4"], "expected at most"),
        (["1x3:2x4x4"], "key: 2 heads, expected a divisor of the 3 of query"),
        (["1x1x4x4", "--window", "3"], "'3', expected LEFT,RIGHT"),
        (["1x1x4x4", "--window", "-2,0"], r"window: (-2, 0), expected"),
        (["1x1x4x4", "--compute-mode", "int8"], "compute_mode: 'int8', expected 'exact'"),
        (["1x1x4x4", "--softcap", "-1"], "softcap: -1.0, expected"),
        (["1x1x4x4", "--dtype", "float64"], "float64"),
        (["1x1x4x4", "--threads", "-1"], "--threads"),
    ],
)
def test_wrong_plan_is_refused(command, arguments, message):
    code, out, err = command("plan", *arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_backend_that_is_not_here_is_no_crash(command, monkeypatch):
    monkeypatch.setenv("MFA_NUM_THREADS", "nonsense")
    code, out, err = command("plan", "1x1x4x4", "--backend", "cpu")
    assert (code, out) == (2, "")
    assert err.startswith('python -m mfa: environment variable MFA_NUM_THREADS is "nonsense", expected a ')

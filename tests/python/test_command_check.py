"""``python -m mfa check``: a float64 reference of its own, and what it finds."""

import importlib
import json

import numpy as np
import pytest
from support import checks, oracle
from support.tools import require_module

import mfa
from mfa._command import EXTRA, backends, main
from mfa._command.cases import CASES
from mfa._command.problems import Problem, Run, worst

require_module("typer", EXTRA)
check = importlib.import_module("mfa._command.check")
HERE = [place for place in backends.every() if place.info]
IDS = [f"{case.name}, {case.dtype}" for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_reference_is_the_oracle(case):
    problem = Problem(case)
    operands = (problem.query, *problem.stored)
    features = checks.oracle_features(case.shape.queries, case.shape.keys, **problem.options)
    out, logsumexp = oracle.attention(*operands, **features)
    np.testing.assert_allclose(problem.forward["out"], out, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(problem.forward["lse"], logsumexp, rtol=1e-11, atol=1e-12)
    gradients = oracle.attention_backward(problem.dout, *operands, **features)
    if "bias" in problem.options:
        shape = problem.options["bias"].shape
        gradients = gradients._replace(dbias=oracle.summed_to(gradients.dbias, shape))
    for name, got in problem.backward.items():
        np.testing.assert_allclose(got, getattr(gradients, name), rtol=1e-10, atol=1e-11)
    assert {"dbias", "dsinks"} <= problem.backward.keys() or "bias" not in problem.options


def test_operands_are_the_same_in_every_run():
    for case in CASES:
        first, second = Problem(case), Problem(case)
        assert checks.same_bits(first.query, second.query)
        assert checks.same_bits(first.dout, second.dout)


def test_cases_reach_edges_and_options():
    problems = {case.name: Problem(case) for case in CASES}
    assert {case.dtype for case in CASES} == {"float32", "float16", "bfloat16"}
    assert np.isneginf(problems["mask, rows without a key"].forward["lse"]).any()
    assert np.isneginf(problems["causal, rows without a key"].forward["lse"]).any()
    assert problems["no keys"].key.size == 0
    used = {name for problem in problems.values() for name in problem.options}
    assert used == {"causal", "window", "mask", "bias", "alibi_slopes", "softcap", "sinks"}
    assert {case.codes["precision"] for case in CASES if case.codes} == {"int8", "uint8", "int4"}


@pytest.mark.parametrize("place", HERE, ids=lambda place: place.name)
def test_passes_here(place):
    small = [case for case in CASES if case.shape.queries < 64 and case.shape.keys < 64]
    document = check.collect([place], small, lambda name: None)
    assert document["passed"], document["outcomes"]
    assert {outcome["place"] for outcome in document["outcomes"]} == {place.name}


RUN = {"forward": Run.forward, "backward": Run.backward}


@pytest.mark.cpu
@pytest.mark.parametrize("case", [case for case in CASES if not case.codes], ids=lambda case: case.name)
@pytest.mark.parametrize("kind", RUN)
def test_one_wrong_element_fails(case, kind):
    """Every bound is far below what an element, or the weight of a key, comes to."""
    with mfa.Context("cpu", num_threads=1) as context:
        run = Run(Problem(case), context)
        results = run.forward()
        if kind == "backward":
            results = run.backward()
    assert worst(results)[1] == ""
    for index, result in enumerate(results):
        if result.got.size == 0:
            continue
        got = result.got.astype(np.float64)
        place = np.unravel_index(abs(np.nan_to_num(got, neginf=1)).argmax(), got.shape)
        for value in (np.nan, np.inf, got[place] + 0.05 * max(1, abs(np.nan_to_num(got[place], neginf=1)))):
            wrong = got.copy()
            wrong[place] = 1.0 if got[place] == value else value
            found, failure = worst([*results[:index], result._replace(got=wrong), *results[index + 1 :]])
            assert failure.startswith(f"{result.name}[{', '.join(map(str, place))}]: ")
            assert found is None or found > 1


def test_wrong_shape_fails():
    with mfa.Context("cpu") as context:
        [out, _] = Run(Problem(CASES[0]), context).forward()
    assert worst([out._replace(got=out.got[0])])[1] == "out: shape (1, 1, 1), expected (1, 1, 1, 1)"


def run_command(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    return int(ended.value.code or 0)


def test_command_says_what_passed(capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command("--only", "odd") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines()[:4])) <= 80
    assert f"All {2 * len(HERE)} results agree with float64" in out
    for place in backends.every():
        assert (place.info is None) == (f"Not here: {place.name}: {place.reason}\n" in out)


def test_command_prints_each_result(capfd):
    assert run_command("--only", "odd", "--verbose", "--backend", "cpu") == 0
    assert capfd.readouterr().out.count("odd sizes") == 2


def test_command_fails_on_a_wrong_result(capfd, monkeypatch):
    wrong = np.full((1, 3, 37, 7), np.nan, np.float32), np.zeros((1, 3, 37), np.float32)
    monkeypatch.setattr("mfa._command.problems.attention", lambda *_, **__: wrong)
    assert run_command("--only", "odd", "--backend", "cpu") == 1
    out, _ = capfd.readouterr()
    assert "FAILED: scalar, forward, odd sizes 1x3x37:41x5:7 float32: out[0, 0, 0, 0]: nan, " in out
    assert "Please report this" in out
    assert run_command("--only", "odd", "--backend", "cpu", "--json") == 1
    document = json.loads(capfd.readouterr().out)
    assert document["passed"] is False
    assert document["outcomes"][0]["worst"] is None


def test_command_reports_what_a_call_raises(capfd, monkeypatch):
    def broken(*_, **__):
        raise mfa.MFAError("compilation of kernel forward failed", 4)

    monkeypatch.setattr("mfa._command.problems.attention", broken)
    assert run_command("--only", "odd", "--backend", "cpu") == 1
    assert "float32: MFAError: compilation of kernel forward failed\n" in capfd.readouterr().out


def test_command_fails_where_a_backend_is_broken(capfd, monkeypatch):
    monkeypatch.setenv("MFA_NUM_THREADS", "nonsense")
    assert run_command("--only", "odd", "--backend", "cpu") == 1
    out, _ = capfd.readouterr()
    assert 'FAILED: scalar: environment variable MFA_NUM_THREADS is "nonsense"' in out
    assert "Nothing was checked.\n" in out


def test_command_names_the_cases(capfd):
    assert run_command("--only", "no such case") == 2
    said = " ".join(capfd.readouterr().err.replace("│", " ").split())
    assert "one element; no keys" in said

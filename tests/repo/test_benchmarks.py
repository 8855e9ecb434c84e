"""benchmarks/ runs, counts the work as the oracle does, and judges targets the right way round."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from support import oracle, tolerance
from support.source_tree import ROOT, run

sys.path.append(str(ROOT))  # benchmarks/ is not installed

import mfa
from benchmarks import cases, compare_builds, digest_problems, library, memory
from benchmarks.contenders import CONTENDERS
from benchmarks.digest import digest as hash_of
from benchmarks.measure import FULL, Measurement, Timing
from benchmarks.operands import DTYPES
from benchmarks.patterns import blocks_seen
from benchmarks.targets import verdicts

GROUPS = [
    "prefill",
    "causal",
    "window",
    "decode",
    "small",
    "odd",
    "isa",
    "backward",
    "sparse",
    "sparse_backward",
]
SLOW_TO_COMPILE = "flex_attention"
CASE_FIELDS = {
    "name", "group", "batch", "heads", "query_length", "head_dim", "dtype", "key_length", "kv_heads",
    "causal", "window", "pattern", "block", "backward", "bias", "dropout_p", "cpu_isa", "rotate_bytes",
    "flop", "instructions", "kv_bytes", "rounds", "peak", "bandwidth", "share_of_full", "results", "targets",
}  # fmt: skip
TIMED_FIELDS = {
    "contender", "reason", "seconds", "median_ms", "gflops", "ginstrs", "gbytes", "peak_fraction",
    "bandwidth_fraction", "error", "speedup",
}  # fmt: skip
MEMORY_FIELDS = {"contender", "reason", "growth_bytes", "result_bytes"}
MIB = 2**20


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks") / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--rounds", "2", "--threads", "2", "--targets"]
    said = run(*command, "--skip", SLOW_TO_COMPILE, "--json", path, cwd=ROOT)
    assert f"Wrote {path}" in said.replace("\n", "")
    return json.loads(path.read_text(encoding="utf-8"))


def test_quantised_attention_is_measured(smoke):
    found = smoke["quantized"]
    assert {"time", "bytes", "training", "error"} <= set(found)
    assert {record["problem"] for record in found["time"]} == {"prefill", "decode", "backward"}
    assert all(record["speedup"] > 0 for record in found["time"])
    assert {record["storage"] for record in found["bytes"]} >= {"float16", "int8 token", "int4 group32"}
    assert all(record["peak_bytes"] >= 0 and record["kept_bytes"] > 0 for record in found["training"])


def test_tensors_are_measured(smoke):
    found = smoke["torch"]
    assert len(found["time"]) == 8
    assert all(record["speedup"] > 0 for record in found["time"])
    for record in found["time"]:
        bound = 1e-5 if "float32" in record["problem"] else 0.1
        assert record["difference"] < bound, record["problem"]
    assert [record["target"] for record in found["overhead"]] == [1.3, 2.0, 2.0]
    assert {(record["dtype"], record["layout"]) for record in found.get("memory", [])} == (
        {(dtype, layout) for dtype in ("float32", "bfloat16") for layout in ("contiguous", "a model's")}
        if sys.platform == "linux"
        else set()
    )


def timed(case):
    return {result["contender"]: result for result in case["results"] if result["reason"] is None}


def test_says_on_what_it_ran(smoke):
    assert set(smoke) == {"machine", "size", "contenders", "cases", "memory", "quantized", "torch"}
    assert set(smoke["machine"]) == {"cpu", "isa", "threads", "system", "python", "packages", "date"}
    assert smoke["machine"]["threads"] == 2
    assert smoke["contenders"].keys() == CONTENDERS.keys()
    assert smoke["contenders"][SLOW_TO_COMPILE] == "skipped"


def test_every_group_is_measured_with_every_field(smoke):
    assert {case["group"] for case in smoke["cases"]} | {"isa"} == set(GROUPS)  # not every machine has AVX2
    for case in smoke["cases"]:
        assert set(case) == CASE_FIELDS
        assert case["rounds"] == 2
        assert 0 < case["peak"]["median_gflops"] <= case["peak"]["largest_gflops"]
        assert (case["bandwidth"] is not None) == (case["group"] == "decode")
        masked = case["causal"] or case["window"] is not None or case["pattern"] is not None
        assert (case["share_of_full"] is not None) == masked
        for result in timed(case).values():
            assert set(result) == TIMED_FIELDS
            assert len(result["seconds"]) == 2
            is_peer = result["contender"] not in {"mfa", FULL}
            assert (result["speedup"] is not None) == is_peer


def test_everybody_answers_rightly(smoke):
    contenders = set()
    for case in smoke["cases"]:
        assert case["group"] == "isa" or {"mfa", "torch"} <= timed(case).keys()
        # Peers may round scores and weights as well as the result.
        bound = 4 * tolerance.unit_roundoff(DTYPES[case["dtype"]]) + 1e-6
        for name, result in timed(case).items():
            if name == FULL or (name != "mfa" and case["dropout_p"]):  # a peer drops other weights
                assert result["error"] is None
            else:
                assert result["error"] < bound, f"{name} on {case['group']} {case['name']}"
                contenders.add(name)
    assert {"mfa", "torch", "NumPy"} <= contenders


def test_memory_is_measured(smoke):
    assert {each["dtype"] for each in smoke["memory"]} == {"float32", "bfloat16"}
    for each in smoke["memory"]:
        assert each.keys() >= MEMORY_FIELDS
        measurable = sys.platform == "linux" and each["contender"] in {"mfa", "torch"}
        assert (each["growth_bytes"] is not None) == (each["reason"] is None) == measurable
        assert measurable or each["reason"]


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_growth_is_what_a_call_adds_to_the_peak():
    def call():
        bytearray(b"1") * (64 * MIB)  # gone when the call returns

    assert 64 * MIB <= memory.peak_growth(call) + MIB < 66 * MIB
    assert memory.peak_growth(lambda: None) < MIB


def test_training_results_are_out_logsumexp_and_gradients():
    case = cases.Case("memory", 2, 4, 10, 16, "bfloat16", key_length=20, kv_heads=2, backward=True)
    queries, keys = 2 * 4 * 10, 2 * 2 * 20
    assert case.training_result_bytes == 2 * (2 * queries * 16 + 2 * keys * 16) + 4 * queries


def every_case():
    return cases.select(GROUPS, "full")


@pytest.mark.parametrize("case", [*every_case(), *cases.select(GROUPS, "smoke")], ids=lambda case: case.name)
def test_work_is_counted_as_the_oracle_sees_it(case):
    window = (-1, -1) if case.window is None else (case.window - 1, 0)
    if case.pattern is None:
        seen = oracle.keys_in_range(
            case.query_length, case.key_length, causal=case.masked, window=window
        ).sum()
    else:
        numbers = np.arange(case.query_length) // case.block
        seen = blocks_seen(case.pattern, numbers[-1] + 1)[numbers][:, numbers].sum()
    pairs = case.batch * case.heads * seen
    assert case.flop == (10 if case.backward else 4) * pairs * case.head_dim
    assert case.instructions == (7 * case.head_dim + 10 if case.backward else 2 * case.head_dim + 5) * pairs


def test_every_case_has_a_target_and_an_own_name():
    assert all(case.targets for case in every_case())
    names = [(case.group, case.name) for case in every_case()]
    assert len(set(names)) == len(names)
    peers = {target.peer for case in every_case() for target in case.targets} - {None}
    assert peers <= CONTENDERS.keys()


def measurement(case, **seconds):
    timings = {name: Timing(name, seconds=list(values)) for name, values in seconds.items()}
    return Measurement(case, "some kernel", peak=[case.flop / 1.0] * 3, timings=timings)


def square(*targets, **fields):
    return cases.square("prefill", (1, 2, 64, 32), "float32", targets=targets, **fields)


def test_ratio_is_the_median_of_the_ratios_of_rounds():
    result = measurement(square(), mfa=[1, 2, 10], torch=[3, 10, 10])
    assert result.speedup("torch") == 3  # of 3, 5, 1; the ratio of the medians is 5
    assert result.ratio("mfa", "torch") == 1 / 3
    assert result.speedup("OpenVINO") is None


@pytest.mark.parametrize(
    ("target", "seconds", "outcome"),
    [
        (cases.Target("speedup", 2.0, "torch"), {"mfa": [1] * 3, "torch": [2.1] * 3}, "met"),
        (cases.Target("speedup", 2.0, "torch"), {"mfa": [1] * 3, "torch": [1.9] * 3}, "not met"),
        (cases.Target("speedup", 2.0, "torch"), {"mfa": [1] * 3}, "not measured"),
        (cases.Target("peak_fraction", 0.5), {"mfa": [1.9] * 3}, "met"),
        (cases.Target("peak_fraction", 0.5), {"mfa": [2.1] * 3}, "not met"),
        (cases.Target("share_of_full", 0.5), {"mfa": [1] * 3, FULL: [2.1] * 3}, "met"),
        (cases.Target("share_of_full", 0.5), {"mfa": [1] * 3, FULL: [1.9] * 3}, "not met"),
    ],
)
def test_verdict(target, seconds, outcome):
    assert [verdict.outcome for verdict in verdicts(measurement(square(target), **seconds))] == [outcome]


def digest(*arguments, **options):
    return run(sys.executable, "-m", "benchmarks.digest", *arguments, cwd=ROOT, **options)


def test_digests_repeat_and_a_changed_bit_is_named(tmp_path):
    few = ("--backends", "scalar", "--match", "x130:130x32")
    path = tmp_path / "digests"
    digest(*few, "--out", path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 8
    assert lines == sorted(lines)
    assert len({line.split(" out=")[1] for line in lines}) == 8
    assert "\n8 problems, 0 lines differ" in "\n" + digest(*few, "--compare", path)

    planted, missing = lines[2].replace("lse=", "lse=f"), lines[5]
    path.write_text("\n".join([*lines[:2], planted, *lines[3:5], *lines[6:]]) + "\n", encoding="utf-8")
    with pytest.raises(AssertionError) as failure:
        digest(*few, "--compare", path)
    for said in f"- {planted}", f"+ {lines[2]}", f"+ {missing}", "8 problems, 3 lines differ":
        assert said in str(failure.value)
    for other in *lines[:2], *lines[3:5], *lines[6:]:
        assert other not in str(failure.value)


def test_digest_sees_one_bit_and_no_nan_payload():
    ones = np.ones((2, 3), np.float32)
    bits = np.full(2, 0x7FC00000, np.uint32)
    other_nans = bits | np.array([1, 1 << 31], np.uint32)
    assert hash_of(bits.view(np.float32)) == hash_of(other_nans.view(np.float32))
    assert (
        len({hash_of(each) for each in (ones, ones.T, np.nextafter(ones, 2), -ones, 0 * ones, -0.0 * ones)})
        == 6
    )


def test_digested_problems_are_told_apart():
    problems = digest_problems.cpu_problems()
    assert len({problem.description for problem in problems}) == len(problems) > 300
    assert 60 < len(digest_problems.metal_problems()) < len(problems)


@pytest.mark.parametrize(
    ("name", "mirror"),
    [
        ("mfa_context_options_t", library.ContextOptions),
        ("mfa_tensor_t", library.Tensor),
        ("mfa_attention_desc_t", library.ForwardDesc),
        ("mfa_attention_backward_desc_t", library.BackwardDesc),
        ("mfa_sequences_t", library.Sequences),
        ("mfa_pages_t", library.Pages),
        ("mfa_append_t", library.Append),
        ("mfa_attention_desc_t", library.SequencesDesc),
    ],
)
def test_structs_begin_as_the_abi_has_them(name, mirror):
    layout = (ROOT / "tests/abi/layout.txt").read_text(encoding="utf-8").splitlines()
    for field, *_ in mirror._fields_:
        place = getattr(mirror, field)
        assert f"{name}.{field} {place.offset} {place.size}" in layout


def test_two_builds_are_timed_on_every_case(tmp_path):
    built = Path(mfa.get_library())
    copy = tmp_path / built.name
    copy.write_bytes(built.read_bytes())
    said = run(
        sys.executable, "-m", "benchmarks.compare_builds", built, copy, "--smoke", cwd=ROOT
    ).splitlines()
    assert len(said) == len(compare_builds.cases()) + 2
    assert all(line.endswith("  same") for line in said[1:-1])


def test_sequences_and_pages_are_timed():
    said = run(sys.executable, "-m", "benchmarks.sequences", "--smoke", cwd=ROOT).splitlines()
    for name in ("varlen", "varlen backward", "decode", "step"):
        for dtype in ("float32", "bfloat16"):
            assert any(line.startswith(f"{name} {dtype}, ") for line in said)


def test_unknown_peer_is_refused():
    with pytest.raises(AssertionError, match=r"--skip \['nobody'\]: expected some of \['torch'"):
        run(sys.executable, "-m", "benchmarks", "--smoke", "--skip", "nobody", cwd=ROOT)

"""The README's picture is drawn from results, and says whose they are."""

import copy

import pytest
from support.tools import require_module


def case(name, group="prefill", **rates):
    results = [{"contender": contender, "gflops": rate} for contender, rate in rates.items()]
    return {"name": name, "group": group, "results": [*results, {"contender": "absent", "reason": "is not"}]}


RESULTS = {
    "machine": {"cpu": "a processor", "threads": 3, "date": "2026-01-02T03:04:05+00:00"},
    "cases": [
        case("1x8x1024x64 float32", mfa=176.4, torch=91.2),
        case("by itself", mfa=1.0),
        case("elsewhere", "decode", mfa=2.0, torch=1.0),
        case("1x8x1024x64 bfloat16", mfa=323.4, torch=121.0),
        case("one too many", mfa=3.0, torch=3.0),
    ],
}


@pytest.fixture
def picture():
    require_module("matplotlib", "pip install matplotlib")
    from benchmarks import picture

    return picture


def test_picture_has_what_was_measured(picture, tmp_path):
    path = tmp_path / "speed.svg"
    picture.save(RESULTS, path, 2)
    drawn = path.read_text(encoding="utf-8")
    for text in ("a processor", "3 threads", "2026-01-02", "1x8x1024x64 float32", "1x8x1024x64 bfloat16"):
        assert text in drawn
    for text in ("176  mfa", "91  torch", "323  mfa", "121  torch", "more is better"):
        assert text in drawn
    for text in ("by itself", "elsewhere", "one too many", "absent"):
        assert text not in drawn


def test_same_results_are_the_same_bytes(picture, tmp_path):
    for name in ("one.svg", "two.svg"):
        picture.save(copy.deepcopy(RESULTS), tmp_path / name, 6)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_results_without_peers_are_refused(picture, tmp_path):
    with pytest.raises(SystemExit, match="no prefill case with a peer, expected a run with --group prefill"):
        picture.save(RESULTS | {"cases": [case("by itself", mfa=1.0)]}, tmp_path / "speed.svg", 6)

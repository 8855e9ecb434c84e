"""What the Metal kernels may cost at the most, by the numbers that `make metal-counters` prints."""

import io
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.emulated import in_python
from support.source_tree import ROOT

sys.path.append(str(ROOT))  # benchmarks/ is not installed

from benchmarks.metal_counters import print_tables

PASSES = ("forward", "dQ", "dK and dV", "backward")


GPUS = ("apple7", "apple9")


@pytest.fixture(scope="module")
def counted(library):
    """For each GPU, the tables by their titles."""

    def count(gpu):
        done = in_python("-m", "benchmarks.metal_counters", "--json", METAL_EMULATOR_GPU=gpu)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with ThreadPoolExecutor() as pool:
        return dict(zip(GPUS, pool.map(count, GPUS), strict=True))


@pytest.fixture(params=GPUS)
def tables(counted, request):
    return list(counted[request.param].values())


def test_no_more_multiplies_than_the_shape_needs(tables):
    rows = tables[0] + tables[1]
    assert {(row["N"], row["D"], row["pass"]) for row in tables[0]} == {
        (length, head_dim, name) for length in (256, 1024) for head_dim in (64, 128) for name in PASSES
    }
    assert all(1 <= row["multiplies / least"] <= 1.02 for row in rows)


def test_no_more_device_bytes_than_the_tile_scheme_needs(tables):
    forward = [row for row in tables[0] if row["pass"] == "forward"]
    assert all(1 <= row["device bytes / least"] <= 1.02 for row in forward)


def test_one_exponential_for_a_score_and_few_for_corrections(tables):
    for row in tables[0]:
        passes = 2 if row["pass"] == "backward" else 1
        assert passes <= row["exponentials / score"] <= 1.125 * passes


def test_two_barriers_for_a_tile(tables):
    assert all(row["barriers / tile"] == 2 for row in tables[0] if row["pass"] != "backward")


@pytest.mark.parametrize(("mask", "most"), [("causal", 0.56), ("window 64", 0.20), ("blocks", 0.5)])
def test_hidden_tiles_are_not_multiplied(tables, mask, most):
    rows = [row for row in tables[2] if row["mask"] == mask]
    assert {(row["D"], row["pass"]) for row in rows} == {(dim, name) for dim in (64, 128) for name in PASSES}
    assert all(0 < row["multiplies"] <= most and 0 < row["exponentials"] <= most for row in rows)


def test_no_more_device_bytes_and_barriers_than_mlx(tables):
    kernels = {(row["D"], row["mask"], row["kernel"]): row for row in tables[3]}
    for head_dim in 64, 128:
        for mask in "full", "causal":
            ours, theirs = kernels[head_dim, mask, "mfa"], kernels[head_dim, mask, "MLX"]
            assert 0 < ours["device bytes"] <= theirs["device bytes"]
            assert 0 < ours["barriers"] <= theirs["barriers"]


def test_decoding_reads_keys_and_values_about_once(tables):
    assert all(1 <= row["device bytes / least"] <= 1.25 for row in tables[4])


def test_page_shows_what_is_printed(counted):
    printed = io.StringIO()
    print_tables(counted["apple7"], printed)
    said = {line.rstrip() for line in printed.getvalue().splitlines()}
    page = (ROOT / "docs/metal.md").read_text(encoding="utf-8")
    shown = re.search(r"`make metal-counters`.*?```text\n(.*?)```", page, flags=re.DOTALL)[1].splitlines()
    assert len(shown) > 20
    assert set(shown) <= said

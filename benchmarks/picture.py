"""Draws the README's picture, forward attention on a CPU, from what `python -m benchmarks --json PATH` left.

python -m benchmarks.picture build/benchmarks/results.json docs/speed.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OURS = "mfa"
# Told apart without colour too: ours alone is dark.
DARK, LIGHT = "#1f4e79", ("#9dc3e6", "#c9c9c9", "#e8d9b0", "#d8bfd8")


def timed(case: dict[str, Any]) -> dict[str, float]:
    """GFLOP/s by contender, of those that ran."""
    return {each["contender"]: each["gflops"] for each in case["results"] if "gflops" in each}


def pictured(results: dict[str, Any], most: int) -> list[dict[str, Any]]:
    """Full attention, forward, that somebody else was timed on too."""
    cases = [case for case in results["cases"] if case["group"] == "prefill" and len(timed(case)) > 1]
    if not cases:
        raise SystemExit("the results have no prefill case with a peer, expected a run with --group prefill")
    return cases[:most]


def draw(axes: Axes, cases: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for case in cases for name in timed(case)))
    names.sort(key=lambda name: name != OURS)
    colors = {name: DARK if name == OURS else LIGHT[(names.index(name) - 1) % len(LIGHT)] for name in names}
    position, ticks = 0.0, []
    for case in cases:
        rates = timed(case)
        shown = [name for name in names if name in rates]
        ticks.append((position + (len(shown) - 1) / 2, case["name"]))
        for name in shown:
            axes.barh(position, rates[name], color=colors[name], height=0.9)
            axes.text(rates[name], position, f" {rates[name]:.0f}  {name}", va="center", fontsize=8)
            position += 1
        position += 0.8
    axes.set_yticks([tick for tick, _ in ticks], [label for _, label in ticks])
    axes.set_ylim(position - 1, -0.8)
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("GFLOP/s, more is better; batch x heads x length x head_dim")


def save(results: dict[str, Any], path: Path, most: int) -> None:
    cases = pictured(results, most)
    bars = sum(len(timed(case)) + 1 for case in cases)
    machine = results["machine"]
    # A fixed salt, and no date of drawing: the same results give the same bytes.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "mfa", "font.size": 9}):
        figure = Figure(figsize=(8, 0.9 + 0.22 * bars), layout="constrained")
        axes = figure.subplots()
        draw(axes, cases)
        axes.set_title(
            f"Attention, forward: {machine['cpu']}, {machine['threads']} threads, {machine['date'][:10]}",
            loc="left",
            fontsize=9,
        )
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="JSON of `python -m benchmarks`")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    parser.add_argument("--cases", type=int, default=6, help="so many at the most (default: %(default)s)")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text(encoding="utf-8"))
    save(results, arguments.picture, arguments.cases)


if __name__ == "__main__":
    main()

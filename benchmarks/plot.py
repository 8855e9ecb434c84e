"""Measurements as a bar chart: a panel for each group, a bar for each contender on each case."""

from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.measure import FULL, Measurement, Timing

BAR_INCHES = 0.14


def save(measurements: list[Measurement], path: Path) -> None:
    groups = [(name, list(members)) for name, members in groupby(measurements, lambda each: each.case.group)]
    names = dict.fromkeys(timing.contender for each in measurements for timing in each.timed)
    colors = {name: f"C{index}" for index, name in enumerate(name for name in names if name != FULL)}
    bars = [sum(len(shown(member)) + 1 for member in members) for _, members in groups]
    figure = Figure(figsize=(9, 2 + BAR_INCHES * sum(bars) + 0.6 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, height_ratios=bars)[:, 0]
    for (name, members), panel in zip(groups, panels, strict=True):
        draw(panel, name, members, colors)
    patches = [Patch(color=color, label=name) for name, color in colors.items()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(colors))
    figure.savefig(path, dpi=120)


def shown(measurement: Measurement) -> list[Timing]:
    return [timing for timing in measurement.timed if timing.contender != FULL]


def draw(panel: Axes, group: str, measurements: list[Measurement], colors: dict[str, str]) -> None:
    position = 0
    ticks = []
    for measurement in measurements:
        timings = shown(measurement)
        ticks.append((position + (len(timings) - 1) / 2, measurement.case.name))
        for timing in timings:
            amount = measurement.case.kv_bytes if measurement.bandwidth else measurement.case.flop
            rate = amount / timing.median / 1e9
            panel.barh(position, rate, color=colors[timing.contender], height=0.9)
            position += 1
        position += 1
    panel.set_yticks([tick for tick, _ in ticks], [label for _, label in ticks], fontsize=7)
    panel.set_xlabel("GB/s" if measurements[0].bandwidth else "GFLOP/s", fontsize=8)
    panel.set_title(group, fontsize=9, loc="left")
    panel.set_ylim(position - 1, -1)

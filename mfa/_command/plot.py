"""What ``bench`` measured, as a picture: a row of two panels for each place."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mfa._command.bench import OURS

COLORS = {OURS: "#1b7837", "NumPy": "#999999", "torch": "#e08214", "torch mps": "#e08214"}


def formats() -> set[str]:
    """Endings of the files that `save` can write."""
    return set(Figure().canvas.get_supported_filetypes())


def save(document: dict[str, Any], path: Path) -> None:
    places = [place for place in document["places"] if "patterns" in place]
    tallest = max(len(place["patterns"]) for place in places)
    figure = Figure(figsize=(11, (1.2 + 0.28 * tallest) * len(places)), layout="constrained")
    panels = figure.subplots(len(places), 2, squeeze=False)
    for place, (left, right) in zip(places, panels, strict=True):
        title = f"{place['device']}, {place['isa']}, {document['shape']}"
        draw(left, place["patterns"], "ginstrs", f"GINSTRS/s, more is better: {title}", "{:.0f}")
        draw(right, place["precisions"], "ms", "ms, less is better: keys and values as", "{:.3g}")
    names = dict.fromkeys(row["by"] for place in places for row in place["patterns"])
    patches = [Patch(color=COLORS[name], label=name) for name in names]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))
    figure.suptitle(f"mfa {document['version']}, {document['date'][:10]}", fontsize=9)
    figure.savefig(path, dpi=120)


def draw(panel: Axes, rows: list[dict[str, Any]], amount: str, title: str, form: str) -> None:
    panel.set_title(title, fontsize=8, loc="left")
    bars = panel.barh(
        range(len(rows)), [row[amount] for row in rows], color=[COLORS[row["by"]] for row in rows]
    )
    panel.bar_label(bars, [form.format(row[amount]) for row in rows], fontsize=7, padding=2)
    panel.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=7)
    panel.tick_params(axis="x", labelsize=7)
    panel.margins(x=0.12)
    panel.invert_yaxis()

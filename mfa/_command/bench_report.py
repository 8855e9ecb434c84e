"""What ``bench`` prints."""

from typing import Any

from rich.table import Table

from mfa._command.bench import OURS, QUERIES_OF_CODES, SMALL
from mfa._command.plan import size
from mfa._command.terminal import OUT, Bar, heading, say, table

STYLES = {OURS: "green", "NumPy": "dim", "torch": "yellow", "torch mps": "yellow"}


def show(document: dict[str, Any]) -> None:
    for place in document["places"]:
        if "patterns" in place:
            show_place(document, place)
        else:
            say(f"{place['name']}: {place['reason']}")


def show_place(document: dict[str, Any], place: dict[str, Any]) -> None:
    count = place["num_threads"]
    threads = f", {count} thread{'s' * (count != 1)}" if place["backend"] == "cpu" else ""
    heading(f"{document['shape']} on {place['backend']}: {place['device']}, {place['isa']}{threads}")
    OUT.print(patterns(place["patterns"]))
    OUT.print(precisions(place["precisions"]))
    queries = QUERIES_OF_CODES[place["backend"]]
    say(f"Codes have a scale a row, and {queries} queries. Times are medians, errors those to float64.")
    small = "x".join(map(str, SMALL))
    say(f"A call of {small} float32 takes {place['call_us']:.2f} us.")
    for name, reason in place["absent"].items():
        say(f"Not timed: {name}: {reason}")
    say("")


def patterns(rows: list[dict[str, Any]]) -> Table:
    made = table("pattern, float32", "by", numbers=("ms", *gpu_column(rows), "vs std", "GINSTRS/s"))
    made.add_column("", ratio=1)
    fastest = max(row["ginstrs"] for row in rows)
    for row, name in named(rows):
        bar = Bar(row["ginstrs"] / fastest, STYLES[row["by"]])
        numbers = (f"{row['relative']:.2f}x", f"{row['ginstrs']:.1f}")
        made.add_row(name, row["by"], *times(row, rows), *numbers, bar)
    return made


def precisions(rows: list[dict[str, Any]]) -> Table:
    made = table("K and V", "by", numbers=("memory", "ms", *gpu_column(rows), "speed", "error"))
    made.add_column("", ratio=1)
    full = next(row for row in rows if row["by"] == OURS)
    quickest = min(row["ms"] for row in rows)
    for row, name in named(rows):
        error = shown_error(row["error"]) if "error" in row else ""
        numbers = (*times(row, rows), f"{full['ms'] / row['ms']:.2f}x", error)
        made.add_row(
            name, row["by"], size(row["bytes"]), *numbers, Bar(quickest / row["ms"], STYLES[row["by"]])
        )
    return made


def shown_error(error: float | None) -> str:
    return "[red]NaN[/]" if error is None else f"{error:.0e}"


def named(rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Each with its name, where the one before it has another."""
    before = ["", *(row["name"] for row in rows)]
    return [
        (row, "" if row["name"] == last else row["name"]) for row, last in zip(rows, before, strict=False)
    ]


def gpu_column(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return ("GPU ms",) if "gpu_ms" in rows[0] else ()


def times(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    found = [f"{row['ms']:.3g}"]
    if gpu_column(rows):
        found.append(f"{row['gpu_ms']:.3g}" if "gpu_ms" in row else "")
    return found

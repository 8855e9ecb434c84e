"""Where output goes, and what it is made of."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

OUT = Console(highlight=False)
ERRORS = Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, allow_nan=False))


def say(line: str | Text) -> None:
    """Whole, so that paths in a report can be copied; a terminal cuts it into lines of its own."""
    OUT.print(line, soft_wrap=True, markup=False)


def print_error(line: str) -> None:
    ERRORS.print(line, soft_wrap=True, markup=False)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[..., None]]:
    """A bar where somebody looks, gone when it is full; the function names a step, or part of one."""
    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=ERRORS, transient=True, disable=not ERRORS.is_terminal) as bar:
        task = bar.add_task("", total=total)

        def advance(description: str, amount: float = 1) -> None:
            bar.update(task, advance=amount, description=description)

        yield advance


def heading(text: str) -> None:
    say(Text(text, style="bold"))


def entry(name: str, value: str) -> None:
    say(f"  {name:<14} {value}")


def table(*columns: str, numbers: Iterable[str] = (), title: str = "") -> Table:
    """Of text, and then of numbers."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title or None, title_justify="left")
    for column in columns:
        made.add_column(column, no_wrap=True)
    for column in numbers:
        made.add_column(column, justify="right", no_wrap=True)
    return made


class Bar:
    """A bar that fills a part of its column."""

    def __init__(self, fraction: float, style: str):
        self.fraction = fraction
        self.style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        character = "#" if options.ascii_only else "\N{FULL BLOCK}"
        yield Text(character * max(1, round(self.fraction * options.max_width)), style=self.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(3, options.max_width), min(40, options.max_width))

"""``check``: whether this machine computes what float64 says."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from mfa._command.backends import Place
from mfa._command.cases import Case
from mfa._command.problems import Problem, Run, worst
from mfa._command.terminal import OUT, say, table
from mfa._context import Context
from mfa._messages import because

FORWARD, BACKWARD, QUANTIZED = KINDS = ("forward", "backward", "quantised")


@dataclass(frozen=True)
class Outcome:
    """Of one pass of a case in one place."""

    place: str
    case: str
    shape: str
    dtype: str
    kind: str  # one of KINDS
    worst: float | None  # the largest error over its bound; None where that is no number
    failure: str  # what is wrong; empty if nothing is


def collect(
    places: Sequence[Place], cases: Sequence[Case], on_progress: Callable[[str], object]
) -> dict[str, Any]:
    """Run each case in each place that is there."""
    present = [place for place in places if place.info is not None]
    start = time.perf_counter()
    outcomes = []
    with ExitStack() as stack:
        contexts = [stack.enter_context(Context(**place.options)) for place in present]
        for case in cases:
            problem = Problem(case)
            for place, context in zip(present, contexts, strict=True):
                outcomes += run(problem, place.name, context)
                on_progress(case.name)
    return {
        "places": [place.described() for place in places],
        "outcomes": [asdict(outcome) for outcome in outcomes],
        "seconds": time.perf_counter() - start,
        "passed": bool(outcomes)
        and not any(outcome.failure for outcome in outcomes)
        and all(place.info is not None or place.is_absent for place in places),
    }


def run(problem: Problem, place: str, context: Context) -> list[Outcome]:
    """Each pass of the problem, up to one that gives no result."""
    case = problem.case
    run = Run(problem, context)
    if case.codes is None:
        passes = {FORWARD: run.forward, BACKWARD: run.backward}
    else:
        passes = {QUANTIZED: run.quantized}
    found = []
    for kind, compute in passes.items():
        named = (place, case.name, str(case.shape), case.dtype, kind)
        try:
            results = compute()
        except Exception as error:  # whatever it is, this is a report of it
            return [*found, Outcome(*named, None, f"{type(error).__name__}: {because(error)}")]
        found.append(Outcome(*named, *worst(results)))
    return found


def show(document: dict[str, Any], is_verbose: bool) -> None:
    places, outcomes = document["places"], document["outcomes"]
    if outcomes:
        OUT.print((every_outcome if is_verbose else summary)(places, outcomes))
    for place in places:
        if "reason" in place:
            print_place(place)
    failed = [outcome for outcome in outcomes if outcome["failure"]]
    for outcome in failed:
        problem = f"{outcome['case']} {outcome['shape']} {outcome['dtype']}"
        say(f"FAILED: {outcome['place']}, {outcome['kind']}, {problem}: {outcome['failure']}")
    if not outcomes:
        say("Nothing was checked.")
    elif document["passed"]:
        say(f"All {len(outcomes)} results agree with float64, in {document['seconds']:.1f} s.")
    else:
        say(f"{len(failed)} of {len(outcomes)} results do not agree with float64.")
        say("Please report this, with what `python -m mfa info` prints.")


def print_place(place: dict[str, Any]) -> None:
    say(f"{'Not here' if place['is_absent'] else 'FAILED'}: {place['name']}: {place['reason']}")


def summary(places: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> Table:
    made = table("", numbers=(*KINDS, "largest error / bound"))
    for place in places:
        ours = [outcome for outcome in outcomes if outcome["place"] == place["name"]]
        if ours:
            counts = (counted([outcome for outcome in ours if outcome["kind"] == kind]) for kind in KINDS)
            made.add_row(
                f"{place['backend']} {place['isa']}", *counts, shown([each["worst"] for each in ours])
            )
    return made


def counted(outcomes: list[dict[str, Any]]) -> str:
    failed = sum(bool(outcome["failure"]) for outcome in outcomes)
    return f"[red]{failed} of {len(outcomes)} failed[/]" if failed else f"{len(outcomes)} passed"


def shown(errors: list[float | None]) -> str:
    return "none" if None in errors else f"{max(errors):.2f}"


def every_outcome(places: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> Table:
    """A row for each pass of each case, a column for each place."""
    names = [place["name"] for place in places if "reason" not in place]
    made = table("error / bound", "", "", numbers=names)
    rows = {}
    for each in outcomes:
        row = rows.setdefault((each["case"], each["dtype"], each["kind"]), dict.fromkeys(names, ""))
        error = shown([each["worst"]])
        row[each["place"]] = f"[red]{error}[/]" if each["failure"] else error
    for titles, row in rows.items():
        made.add_row(*titles, *row.values())
    return made

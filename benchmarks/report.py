"""Measurements as tables."""

import statistics
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.cases import MIB
from benchmarks.contenders import OURS
from benchmarks.measure import FULL, Measurement, Timing
from benchmarks.memory import Footprint
from benchmarks.targets import verdicts

MEMORY_CAPTION = """\
Bytes that a forward and a backward pass add to the peak resident memory
of a fresh process with operands, threads and code in place.
Results are the output, the logsumexp and the gradients."""
OUTCOME_STYLES = {"met": "green", "not met": "red", "not measured": "dim"}


def group_table(group: str, measurements: list[Measurement]) -> Table:
    with_bandwidth = any(measurement.bandwidth for measurement in measurements)
    with_full = any(measurement.case.masked for measurement in measurements)
    columns = ["ms", "GFLOP/s", "GINSTRS/s", "of peak"]
    columns += ["GB/s", "of bandwidth"] if with_bandwidth else []
    columns += ["of full"] if with_full else []
    table = Table("case", "contender", title=group, title_justify="left", caption_justify="left")
    for column in [*columns, "error", "mfa is"]:
        table.add_column(column, justify="right", no_wrap=True)
    for measurement in measurements:
        case_name = measurement.case.name
        for timing in measurement.timed:
            cells = timing_cells(measurement, timing, with_bandwidth=with_bandwidth, with_full=with_full)
            table.add_row(case_name, timing.contender, *cells)
            case_name = ""
        table.add_section()
    table.caption = "\n".join(notes(measurements))
    return table


def timing_cells(
    measurement: Measurement, timing: Timing, *, with_bandwidth: bool, with_full: bool
) -> list[str]:
    work = measurement.work(timing)
    rate = 1e-9 / timing.median
    cells = [
        f"{timing.median * 1e3:.3g}" if timing.median < 1 else f"{timing.median * 1e3:.0f}",
        f"{work.flop * rate:.1f}",
        f"{work.instructions * rate:.1f}",
        f"{measurement.peak_fraction(timing):.2f}",
    ]
    if with_bandwidth:
        cells += [f"{work.kv_bytes * rate:.1f}", f"{measurement.bandwidth_fraction(timing):.2f}"]
    if with_full:
        share = measurement.share_of_full() if timing.contender == OURS else None
        cells.append("" if share is None else f"{share:.2f}")
    error = "" if timing.error is None else f"{timing.error:.1e}"
    return [*cells, error, comparison(measurement, timing)]


def comparison(measurement: Measurement, timing: Timing) -> str:
    if timing.contender in (OURS, FULL) or not measurement.was_timed(OURS):
        return ""
    speedup = measurement.speedup(timing.contender)
    if speedup < 1:
        return f"[red]{speedup:.2f}x, {timing.contender} wins[/red]"
    return f"{speedup:.2f}x"


def notes(measurements: list[Measurement]) -> list[str]:
    rounds = [len(measurement.peak) for measurement in measurements]
    lines = [f"Rounds: {spread(rounds, '{:.0f}')}."]
    for kernel in dict.fromkeys(measurement.peak_kernel for measurement in measurements):
        peaks = [statistics.median(each.peak) / 1e9 for each in measurements if each.peak_kernel == kernel]
        lines.append(f"Peak of {kernel}: {spread(peaks, '{:.0f}')} GFLOP/s.")
    bandwidths = [statistics.median(each.bandwidth) / 1e9 for each in measurements if each.bandwidth]
    if bandwidths:
        lines.append(f"Read bandwidth: {spread(bandwidths, '{:.1f}')} GB/s.")
    reasons = {
        f"{timing.contender} {timing.reason}."
        for each in measurements
        for timing in each.timings.values()
        if timing.reason
    }
    return [*lines, *map(escape, sorted(reasons))]


def spread(values: list[float], form: str) -> str:
    texts = [form.format(min(values)), form.format(max(values))]
    return " to ".join(dict.fromkeys(texts))


def memory_table(footprints: list[Footprint]) -> Table:
    table = Table("case", "contender", title="memory", title_justify="left", caption_justify="left")
    for column in ("bytes", "MiB", "beside results", "bytes a row", "mfa takes"):
        table.add_column(column, justify="right", no_wrap=True)
    for case, members in groupby(footprints, lambda each: each.case):
        case_name = case.name
        measured = {each.contender: each for each in members if each.reason is None}
        for name, each in measured.items():
            table.add_row(
                case_name,
                name,
                f"{each.growth:,}",
                f"{each.growth / MIB:.1f}",
                f"{each.beside_results:,}",
                f"{each.growth / case.query_length:,.0f}",
                f"{measured[OURS].growth / each.growth:.2f}x" if OURS in measured and name != OURS else "",
            )
            case_name = ""
        table.add_section()
    reasons = {f"{each.contender} {each.reason}." for each in footprints if each.reason}
    table.caption = "\n".join([MEMORY_CAPTION, *map(escape, sorted(reasons))])
    return table


def peer_wins(measurements: list[Measurement]) -> tuple[list[str], int]:
    """Where a peer is ahead of us, and the number of comparisons."""
    comparisons = [
        (measurement.speedup(timing.contender), timing.contender, measurement.case)
        for measurement in measurements
        for timing in measurement.timed
        if timing.contender not in (OURS, FULL) and measurement.was_timed(OURS)
    ]
    lost = [
        f"{peer} on {case.group} {case.name}: mfa is {speedup:.2f}x"
        for speedup, peer, case in comparisons
        if speedup < 1
    ]
    return lost, len(comparisons)


def print_wins(console: Console, measurements: list[Measurement]) -> None:
    lost, comparisons = peer_wins(measurements)
    console.print(f"A peer wins {len(lost)} of {comparisons} comparisons.")
    for line in lost:
        console.print(f"  {line}", style="red")


def targets_table(measurements: list[Measurement]) -> Table:
    table = Table("group", "case", "target", title="targets", title_justify="left")
    table.add_column("measured", justify="right")
    table.add_column("outcome")
    for measurement in measurements:
        for verdict in verdicts(measurement):
            measured = "" if verdict.value is None else f"{verdict.value:.3f}"
            style = OUTCOME_STYLES[verdict.outcome]
            table.add_row(
                verdict.case.group,
                verdict.case.name,
                str(verdict.target),
                measured,
                f"[{style}]{verdict.outcome}[/{style}]",
            )
    return table

"""One run: who is there, all cases with a progress bar, and what comes of it."""

import importlib.util
import itertools
import json
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from benchmarks import cases, memory, quantized, quantized_memory, quantized_quality, record, report
from benchmarks.contenders import CONTENDERS, OURS, Contender, Unavailable
from benchmarks.measure import EFFORTS, Measurement, measure
from benchmarks.memory import Footprint
from benchmarks.peak import ComputePeak, ReadBandwidth, kernel_for

NARROWEST_TABLE = 132  # columns where the output is no terminal
PROGRESS = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))


def present(skipped: list[str], threads: int) -> tuple[list[Contender], dict[str, str]]:
    """The contenders that can be had, and for each the version, or why it is not there."""
    unknown = set(skipped) - (set(CONTENDERS) - {OURS})
    if unknown:
        raise SystemExit(f"--skip {sorted(unknown)}: expected some of {list(CONTENDERS)[1:]}")
    found, status = [], {}
    for name, kind in CONTENDERS.items():
        if name in skipped:
            status[name] = "skipped"
            continue
        contender = kind()
        try:
            status[name] = contender.load(threads)
        except ImportError as error:
            status[name] = f"not available: {error}"
        else:
            found.append(contender)
    return found, status


def runnable(chosen: list[cases.Case], console: Console) -> list[cases.Case]:
    """Those whose instruction set the machine has."""
    found = []
    for case in chosen:
        if kernel_for(case.dtype, case.cpu_isa):
            found.append(case)
        else:
            console.print(f"Left out: {case.name}, for this machine has no {case.cpu_isa}")
    return found


def measure_all(
    chosen: list[cases.Case], contenders: list[Contender], options: Namespace, console: Console
) -> list[Measurement]:
    reads_memory = any(case.query_length == 1 for case in chosen)
    bandwidth = ReadBandwidth(options.threads) if reads_memory else None
    measurements = []
    with Progress(*PROGRESS, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(chosen))
        for index, case in enumerate(chosen):
            progress.update(task, description=f"{case.group} {case.name}")
            measurements.append(
                measure(
                    case,
                    contenders,
                    threads=options.threads,
                    effort=EFFORTS[options.size],
                    rounds=options.rounds,
                    compute_peak=ComputePeak(kernel_for(case.dtype, case.cpu_isa), options.threads),
                    bandwidth=bandwidth if case.query_length == 1 else None,
                    on_progress=lambda part: progress.advance(task, part),
                )
            )
            progress.update(task, completed=index + 1)
    return measurements


def weigh_all(
    chosen: list[cases.Case], contenders: list[Contender], threads: int, console: Console
) -> list[Footprint]:
    pairs = list(itertools.product(chosen, contenders))
    footprints = []
    with Progress(*PROGRESS, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(pairs))
        for case, contender in pairs:
            progress.update(task, description=f"memory {case.name} {contender.name}")
            footprints.append(memory.measure(case, contender, threads))
            progress.advance(task)
    return footprints


def measure_quantized(size: str, threads: int, console: Console) -> dict[str, list[dict]]:
    """Prints a table after the other and returns what is in them."""
    found = {"time": []}
    for problem in quantized.problems():
        table, records = quantized.time_table(problem, size, threads)
        console.print(table)
        found["time"] += records
    shape = quantized_memory.TINY_SHAPE if size == "smoke" else quantized_memory.SHAPE
    tables = {
        "bytes": quantized_memory.store_table,
        "training": quantized_memory.training_table,
        "error": quantized_quality.error_table,
    }
    for name, make in tables.items():
        table, found[name] = make(shape)
        console.print(table)
    if quantized_quality.is_demo_there():
        table, found["similarity"] = quantized_quality.similarity_table()
        console.print(table)
    else:
        console.print("No similarity: the demo's model is not installed (make demo installs it)")
    return found


def measure_torch(size: str, skipped: list[str], threads: int, console: Console) -> dict[str, list[dict]]:
    """Prints a table after the other and returns what is in them; nothing where there is no torch."""
    if "torch" in skipped or not importlib.util.find_spec("torch"):
        console.print("No torch group: torch is " + ("skipped" if "torch" in skipped else "not installed"))
        return {}
    from benchmarks import tensors, tensors_memory

    found = {}
    tables = {
        "time": tensors.time_table,
        "overhead": tensors.overhead_table,
        "memory": tensors_memory.memory_table,
    }
    for name, make in tables.items():
        try:
            table, found[name] = make(size, threads)
        except Unavailable as reason:
            console.print(f"No torch {name}: mfa {reason}")
            continue
        console.print(table)
    return found


def print_report(
    machine: dict,
    status: dict[str, str],
    measurements: list[Measurement],
    footprints: list[Footprint],
    options: Namespace,
    console: Console,
) -> None:
    console.print(
        f"{machine['cpu']}, {machine['isa']}, {machine['threads']} threads, {machine['system']}. Medians of "
        "interleaved rounds; masked cases count the pairs of query and key that are seen."
    )
    console.print("; ".join(f"{name}: {version}" for name, version in status.items()), highlight=False)
    for group in options.groups:
        members = [measurement for measurement in measurements if measurement.case.group == group]
        if members:
            console.print(report.group_table(group, members))
    if footprints:
        console.print(report.memory_table(footprints))
    if measurements:
        report.print_wins(console, measurements)
    if options.targets:
        console.print(report.targets_table(measurements))


def write_json(
    path: Path,
    machine: dict,
    status: dict,
    measurements: list[Measurement],
    footprints: list[Footprint],
    by_codes: dict[str, list[dict]],
    by_tensors: dict[str, list[dict]],
    size: str,
) -> None:
    document = {
        "machine": machine,
        "size": size,
        "contenders": status,
        "cases": [record.of_case(measurement) for measurement in measurements],
        "memory": [record.of_memory(footprint) for footprint in footprints],
        "quantized": by_codes,
        "torch": by_tensors,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def run(options: Namespace) -> int:
    console = Console()
    if not console.is_terminal:
        console = Console(width=NARROWEST_TABLE)
    contenders, status = present(options.skip, options.threads)
    machine = record.machine(options.threads)
    chosen = runnable(cases.select(options.groups, options.size), console)
    timed = [case for case in chosen if case.group != cases.memory.__name__]
    weighed = [case for case in chosen if case.group == cases.memory.__name__]
    measurements = measure_all(timed, contenders, options, console)
    footprints = weigh_all(weighed, contenders, options.threads, console)
    print_report(machine, status, measurements, footprints, options, console)
    by_codes = {}
    if cases.QUANTIZED in options.groups:
        by_codes = measure_quantized(options.size, options.threads, console)
    by_tensors = {}
    if cases.TORCH in options.groups:
        by_tensors = measure_torch(options.size, options.skip, options.threads, console)
    write_json(options.json, machine, status, measurements, footprints, by_codes, by_tensors, options.size)
    console.print(f"Wrote {options.json}", highlight=False)
    if not measurements:
        return 0  # there is nothing to plot
    if importlib.util.find_spec("matplotlib"):
        from benchmarks import plot

        picture = options.json.with_suffix(".png")
        plot.save(measurements, picture)
        console.print(f"Wrote {picture}", highlight=False)
    else:
        console.print("No plot: matplotlib is not installed (make bench-peers installs it)")
    return 0

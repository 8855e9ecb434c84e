"""What a run leaves as JSON: the machine, every timing, and what follows from them."""

import importlib.metadata
import platform
import statistics
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import mfa
from benchmarks.cases import Case
from benchmarks.contenders import OURS
from benchmarks.measure import FULL, Measurement, Timing
from benchmarks.memory import Footprint
from benchmarks.targets import verdicts


def machine(threads: int) -> dict[str, Any]:
    with mfa.Context(num_threads=threads) as context:
        described = context.describe()
    packages = ("numpy", "ml_dtypes")
    return {
        "cpu": described.device,
        "isa": described.isa,
        "threads": described.num_threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def of_problem(case: Case) -> dict[str, Any]:
    fields = asdict(case)
    del fields["targets"], fields["quick"]
    return {"name": case.name, **fields}


def of_case(measurement: Measurement) -> dict[str, Any]:
    case = measurement.case
    return {
        **of_problem(case),
        "flop": case.flop,
        "instructions": case.instructions,
        "kv_bytes": case.kv_bytes,
        "rounds": len(measurement.peak),
        "peak": {"kernel": measurement.peak_kernel, **spread(measurement.peak, "gflops")},
        "bandwidth": spread(measurement.bandwidth, "gbytes") if measurement.bandwidth else None,
        "share_of_full": measurement.share_of_full(),
        "results": [of_timing(measurement, timing) for timing in measurement.timings.values()],
        "targets": [
            {**asdict(verdict.target), "value": verdict.value, "outcome": verdict.outcome}
            for verdict in verdicts(measurement)
        ],
    }


def spread(rates: list[float], unit: str) -> dict[str, float]:
    return {f"median_{unit}": statistics.median(rates) / 1e9, f"largest_{unit}": max(rates) / 1e9}


def of_timing(measurement: Measurement, timing: Timing) -> dict[str, Any]:
    named = {"contender": timing.contender, "reason": timing.reason}
    if not timing.seconds:
        return named
    work = measurement.work(timing)
    is_peer = timing.contender not in (OURS, FULL)
    return {
        **named,
        "seconds": timing.seconds,
        "median_ms": timing.median * 1e3,
        "gflops": work.flop / timing.median / 1e9,
        "ginstrs": work.instructions / timing.median / 1e9,
        "gbytes": work.kv_bytes / timing.median / 1e9,
        "peak_fraction": measurement.peak_fraction(timing),
        "bandwidth_fraction": measurement.bandwidth_fraction(timing),
        "error": timing.error,
        "speedup": measurement.speedup(timing.contender) if is_peer else None,
    }


def of_memory(footprint: Footprint) -> dict[str, Any]:
    return {
        **of_problem(footprint.case),
        "contender": footprint.contender,
        "reason": footprint.reason,
        "growth_bytes": footprint.growth,
        "result_bytes": footprint.case.training_result_bytes,
    }

"""``bench``: the tables of the project's original, measured here."""

import math
import statistics
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any, NamedTuple

import numpy

from mfa._attention import attention
from mfa._command import machine, peers, reference
from mfa._command.arrays import DTYPES, normal
from mfa._command.backends import Place
from mfa._command.shapes import Shape
from mfa._command.timing import time_all
from mfa._context import Context
from mfa._messages import because
from mfa._quantize import quantize
from mfa._quantized_tensor import QuantizedTensor
from mfa._status import last_latency, library_version

OURS = "mfa"
PATTERNS = {
    "Standard": {},
    "Causal": {"causal": "top-left"},
    "Sliding window (256)": {"window": (255, 0)},
    "Sliding window (64)": {"window": (63, 0)},
}
FLOATS = {"FP32": "float32", "FP16": "float16", "BF16": "bfloat16"}
CODES = {
    "INT8": {"precision": "int8"},
    "INT4": {"precision": "int4"},
    "INT8 products": {"precision": "int8", "compute_mode": "int8"},
}
QUERIES_OF_CODES = {"cpu": "bfloat16", "metal": "float16"}
SAMPLED_ROWS = 64  # that are compared with float64
SMALL = (1, 1, 16, 64)  # a call of which takes next to no time beside what all calls take
GROUPS = 3  # of measurements in a place


class Entry(NamedTuple):
    """A row of a table, and by whom it is."""

    name: str
    by: str

    def __str__(self) -> str:
        return f"{self.by}: {self.name}"


def collect(
    places: Sequence[Place],
    shape: Shape,
    seconds: float,
    has_peers: bool,
    on_progress: Callable[[str, float], object],
) -> dict[str, Any]:
    """Times of each place that is there. Lengths of queries and keys are equal."""
    return {
        "version": library_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "shape": str(shape),
        "system": machine.system(),
        "packages": machine.python()["packages"],
        "places": [
            {
                **place.described(),
                **(measured(place, shape, seconds, has_peers, on_progress) if place.info else {}),
            }
            for place in places
        ],
    }


def measured(
    place: Place,
    shape: Shape,
    seconds: float,
    has_peers: bool,
    on_progress: Callable[[str, float], object],
) -> dict[str, Any]:
    others = peers.of(place.info) if has_peers else {}
    with Context(**place.options) as context:
        bench = Bench(place, context, shape, others)
        patterns, precisions = bench.patterns(), bench.precisions()
        return {
            "absent": {name: reason for name, reason in others.items() if isinstance(reason, str)}
            | bench.refused,
            "patterns": rows(patterns, time_all(patterns, seconds, on_progress), bench),
            "precisions": rows(precisions, time_all(precisions, seconds, on_progress), bench),
            "call_us": 1e6 * statistics.median(overhead(place, seconds, on_progress)),
        }


class Bench:
    """The calls of one place, which all have the same numbers as operands."""

    def __init__(self, place: Place, context: Context, shape: Shape, others: dict[str, peers.Make | str]):
        self.place = place
        self.context = context
        self.shape = shape
        self.others = {name: make for name, make in others.items() if not isinstance(make, str)}
        self.refused: dict[str, str] = {}
        generator = numpy.random.default_rng(0)
        self.operands = [
            normal(generator, sizes, "float32") for sizes in (shape.query, shape.key, shape.value)
        ]
        self.facts: dict[Entry, dict[str, Any]] = {}
        self.rows = numpy.unique(numpy.linspace(0, shape.queries - 1, SAMPLED_ROWS, dtype=numpy.int64))
        query, key, value = self.operands
        self.exact = reference.attention(query[:, :, self.rows], key, value)["out"]

    def patterns(self) -> dict[Entry, Callable[[], Any]]:
        calls = {}
        for name, options in PATTERNS.items():
            facts = {"pairs": pairs(self.shape, options)}
            calls[self.entry(name, OURS, **facts)] = self.ours(*self.operands, **options)
            self.add_others(calls, name, self.operands, options, facts)
        return calls

    def precisions(self) -> dict[Entry, Callable[[], Any]]:
        calls = {}
        everything = {"pairs": pairs(self.shape, {})}
        for name, dtype in FLOATS.items():
            operands = [array.astype(DTYPES[dtype]) for array in self.operands]
            call = self.ours(*operands)
            facts = {**everything, "bytes": sum(array.nbytes for array in operands[1:])}
            calls[self.entry(name, OURS, **facts, error=self.error(call()))] = call
            self.add_others(calls, name, operands, {}, facts)
        query = self.operands[0].astype(DTYPES[QUERIES_OF_CODES[self.place.info.backend]])
        for name, options in CODES.items():
            stored = [quantize(x, options["precision"], layout="bhsd") for x in self.operands[1:]]
            mode = {"compute_mode": options.get("compute_mode", "exact")}
            call = self.ours(query, *stored, **mode)
            facts = {**everything, "bytes": sum(codes.nbytes for codes in stored)}
            calls[self.entry(name, OURS, **facts, error=self.error(call()))] = call
        return calls

    def entry(self, name: str, by: str, **facts: Any) -> Entry:
        entry = Entry(name, by)
        self.facts[entry] = facts
        return entry

    def ours(
        self, query: Any, key: numpy.ndarray | QuantizedTensor, value: Any, **options: Any
    ) -> Callable[[], Any]:
        return partial(attention, query, key, value, layout="bhsd", context=self.context, **options)

    def add_others(
        self,
        calls: dict[Entry, Callable[[], Any]],
        name: str,
        operands: list[numpy.ndarray],
        options: dict[str, Any],
        facts: dict[str, Any],
    ) -> None:
        """With the calls of peers that can do the same; of others, `refused` has the reason."""
        for by, make in self.others.items():
            try:
                call = make(*operands, options)
                if call is None:
                    continue
                call()
            except Exception as error:  # of another project's: what it is, is said
                self.refused[f"{by}, {name}"] = because(error)
                continue
            calls[self.entry(name, by, **facts)] = call

    def error(self, out: numpy.ndarray) -> float | None:
        """Relative, by the Frobenius norm, to float64 over the operands before they were rounded.

        None if it is no number, as where a result is NaN.
        """
        difference = out[:, :, self.rows].astype(numpy.float64) - self.exact
        error = float(numpy.linalg.norm(difference) / numpy.linalg.norm(self.exact))
        return error if math.isfinite(error) else None


def pairs(shape: Shape, options: dict[str, Any]) -> int:
    """Of a query and a key that it sees, over all heads."""
    length = shape.queries
    if options:
        last = min(options.get("window", (length - 1, 0))[0] + 1, length)
        count = length * last - last * (last - 1) // 2
    else:
        count = length * length
    return shape.batch * shape.heads * count


def rows(
    calls: dict[Entry, Callable[[], Any]], timed: dict[Entry, list[float]], bench: Bench
) -> list[dict[str, Any]]:
    """Of a table: `relative` is the time over that of the first row by the same contender."""
    found = []
    first: dict[str, float] = {}
    for entry, call in calls.items():
        seconds = statistics.median(timed[entry])
        facts = bench.facts[entry]
        # What metal-flash-attention counts, which the project's original takes over.
        instructions = (2 * bench.shape.head_dim + 5) * facts["pairs"]
        row = {"name": entry.name, "by": entry.by, "ms": 1e3 * seconds, "rounds": len(timed[entry])}
        row |= {
            "ginstrs": instructions / seconds / 1e9,
            "relative": seconds / first.setdefault(entry.by, seconds),
        }
        if entry.by == OURS and bench.place.info.backend == "metal":
            call()
            row["gpu_ms"] = 1e3 * last_latency()
        found.append(row | facts)
    return found


def overhead(place: Place, seconds: float, on_progress: Callable[[str, float], object]) -> list[float]:
    ones = numpy.ones(SMALL, numpy.float32)
    with Context(**{**place.options, "num_threads": 1}) as context:
        call = partial(attention, ones, ones, ones, layout="bhsd", context=context)
        return time_all({"a small call": call}, seconds, on_progress)["a small call"]

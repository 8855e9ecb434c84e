"""Times the same calls on two builds of libmfa in one process, in turns, for the ratio of new to old.

    python -m benchmarks.compare_builds OLD/mfa/libmfa.so mfa/libmfa.so --quick

Time is that of the clock, best and median, and that of the processors: the last is the one to look at where
others use them too. A build next to a copy of itself shows the noise that is left. Each build has a pool of
threads of its own, whose idle ones spin for some microseconds and then sleep: a turn begins when all other
threads of the process sleep, so that only one pool runs. Only the CPU backend is timed.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.cases import MIB, Case, square, tiny
from benchmarks.library import Library
from benchmarks.operands import gradient_operands, rotation

TASKS = Path("/proc/self/task")
ASLEEP_SECONDS = 1.0  # threads that are not asleep by then never will be
SETTLE_SECONDS = 0.002  # where there is no TASKS


@dataclass(frozen=True)
class Effort:
    rounds: int
    turn_seconds: float  # shorter calls are repeated for as long


FULL = Effort(rounds=41, turn_seconds=0.02)
QUICK = Effort(rounds=11, turn_seconds=0.01)
SMOKE = Effort(rounds=2, turn_seconds=0.0)


def cases() -> list[Case]:
    short, long, many = (1, 8, 1024, 64), (1, 8, 2048, 128), (8, 16, 128, 64)
    forward = [
        replace(square("forward", shape, dtype), causal=causal)
        for dtype in ("float32", "bfloat16", "float16")
        for shape in (short, long, many)
        for causal in (False, True)
    ]
    decode = [
        Case("decode", 1, 32, 1, 128, dtype, 8192, kv_heads=8, rotate_bytes=256 * MIB)
        for dtype in ("float32", "bfloat16")
    ]
    return [
        *forward,
        *(square("forward", short, dtype, window=128) for dtype in ("float32", "bfloat16")),
        *(square("forward", short, dtype, bias=True) for dtype in ("float32", "bfloat16")),
        *decode,
        *(square("overhead", (1, 1, 16, 64), dtype) for dtype in ("float32", "bfloat16")),
        *(square("backward", short, dtype, backward=True) for dtype in ("float32", "bfloat16")),
        *(square("backward", short, dtype, backward=True, causal=True) for dtype in ("float32", "bfloat16")),
        *(square("backward", short, dtype, backward=True, bias=True) for dtype in ("float32", "bfloat16")),
    ]


def wait_until_alone() -> None:
    """Returns when every other thread of this process sleeps."""
    if not TASKS.exists():
        time.sleep(SETTLE_SECONDS)
        return
    deadline = time.perf_counter() + ASLEEP_SECONDS
    while running := sum(is_running(task) for task in TASKS.iterdir()) - 1:  # this one
        if time.perf_counter() > deadline:
            raise RuntimeError(f"{running} threads run though nothing was called: no timing would be true")
        time.sleep(0.0002)


def is_running(task: Path) -> bool:
    state = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return state == "R"


@dataclass
class Side:
    """One build's calls of a case, in turn, each over operands of its own."""

    calls: list[Callable[[], None]]
    results: list[np.ndarray]
    seconds: list[float] = field(default_factory=list)  # by the clock, for each round
    cpu_seconds: list[float] = field(default_factory=list)  # of all threads
    next_call: int = 0

    def time(self, count: int) -> tuple[float, float]:
        """By the clock and of all threads, for one call."""
        cpu_start, start = time.process_time(), time.perf_counter()
        for _ in range(count):
            self.calls[self.next_call]()
            self.next_call = (self.next_call + 1) % len(self.calls)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        return seconds / count, cpu_seconds / count

    def take_turn(self, count: int) -> None:
        wait_until_alone()
        self.time(1)  # its threads are awake, and its code is in the caches
        seconds, cpu_seconds = self.time(count)
        self.seconds.append(seconds)
        self.cpu_seconds.append(cpu_seconds)


def median_ratio(old: list[float], new: list[float]) -> float:
    """Of the rounds' ratios: what disturbs a whole round cancels."""
    return statistics.median(after / before for before, after in zip(old, new, strict=True))


@dataclass(frozen=True)
class Comparison:
    case: Case
    old: Side
    new: Side

    @property
    def best_ratio(self) -> float:
        return min(self.new.seconds) / min(self.old.seconds)

    @property
    def median_ratio(self) -> float:
        return median_ratio(self.old.seconds, self.new.seconds)

    @property
    def cpu_ratio(self) -> float:
        return median_ratio(self.old.cpu_seconds, self.new.cpu_seconds)

    @property
    def same_bits(self) -> bool:
        pairs = zip(self.old.results, self.new.results, strict=True)
        return all(old.tobytes() == new.tobytes() for old, new in pairs)


def compare(case: Case, libraries: list[Library], effort: Effort) -> Comparison:
    operand_sets = [gradient_operands(case)] if case.backward or case.bias else rotation(case)
    sides = []
    for library in libraries:
        calls, results = zip(*(library.call(case, operands) for operands in operand_sets), strict=True)
        sides.append(Side(list(calls), results[0]))
    slowest = max(side.time(len(side.calls))[0] for side in sides)
    count = max(1, math.ceil(effort.turn_seconds / slowest))
    for index in range(effort.rounds):
        for side in sides if index % 2 == 0 else reversed(sides):  # neither always follows the other
            side.take_turn(count)
    return Comparison(case, *sides)


def parse() -> argparse.Namespace:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare_builds", description=__doc__, formatter_class=kind
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="path of a libmfa.so")
    parser.add_argument("new", type=Path, metavar="NEW", help="path of another")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--match", default="", metavar="TEXT", help="only cases whose name has this in it")
    size = parser.add_mutually_exclusive_group()
    size.set_defaults(effort=FULL)
    size.add_argument(
        "--quick", dest="effort", action="store_const", const=QUICK, help="fewer rounds: a minute"
    )
    size.add_argument(
        "--smoke", dest="effort", action="store_const", const=SMOKE, help="tiny shapes: does it run at all?"
    )
    return parser.parse_args()


def main() -> int:
    options = parse()
    libraries = [Library(path, options.threads) for path in (options.old, options.new)]
    print(f"{'new / old':44}{'old ms':>10}{'new ms':>10}{'best':>8}{'median':>8}{'cpu':>8}  bits")
    compared = []
    for case in cases():
        case = tiny(case) if options.effort is SMOKE else case
        name = f"{case.group} {case.name}"
        if options.match not in name:
            continue
        done = compare(case, libraries, options.effort)
        compared.append(done)
        old, new = (1e3 * min(side.seconds) for side in (done.old, done.new))
        ratios = f"{done.best_ratio:8.3f}{done.median_ratio:8.3f}{done.cpu_ratio:8.3f}"
        bits = "same" if done.same_bits else "differ"
        print(f"{name:44}{old:10.4f}{new:10.4f}{ratios}  {bits}", flush=True)
    if not compared:
        raise SystemExit(f"--match {options.match!r}: no case has it in its name")
    columns = (
        [getattr(done, ratio) for done in compared] for ratio in ("best_ratio", "median_ratio", "cpu_ratio")
    )
    means = "".join(f"{statistics.geometric_mean(column):8.3f}" for column in columns)
    print(f"{'geometric mean':64}{means}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

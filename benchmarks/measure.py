"""Times contenders round-robin: each gets one turn in each round, so that a busy machine slows all alike."""

import itertools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import Case
from benchmarks.contenders import OURS, Contender, Unavailable
from benchmarks.passes import Backward, Forward
from benchmarks.peak import ComputePeak, ReadBandwidth

FULL = "mfa, all pairs"  # ours without the mask, for the share of its time that a mask costs
SETTLE_SECONDS = 0.015  # torch's threads, the slowest to sleep, spin for some 10 ms after a call


@dataclass(frozen=True)
class Effort:
    seconds: float  # for the rounds of one case, about
    fewest_rounds: int
    most_rounds: int
    turn_seconds: float  # shorter calls are repeated for as long


EFFORTS = {
    "full": Effort(seconds=10.0, fewest_rounds=7, most_rounds=31, turn_seconds=0.02),
    "quick": Effort(seconds=0.8, fewest_rounds=3, most_rounds=7, turn_seconds=0.01),
    "smoke": Effort(seconds=0.0, fewest_rounds=2, most_rounds=2, turn_seconds=0.0),
}


@dataclass
class Timing:
    """One contender on one case: its seconds per call in each round, or the reason why there are none."""

    contender: str
    seconds: list[float] = field(default_factory=list)
    error: float | None = None
    reason: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass
class Measurement:
    """A case with everybody's timings and, in the same rounds, what the machine could do."""

    case: Case
    peak_kernel: str
    peak: list[float] = field(default_factory=list)  # FLOP/s in each round
    bandwidth: list[float] = field(default_factory=list)  # bytes/s in each round, of decoding only
    timings: dict[str, Timing] = field(default_factory=dict)

    @property
    def timed(self) -> list[Timing]:
        return [timing for timing in self.timings.values() if timing.seconds]

    def was_timed(self, *names: str) -> bool:
        return all(name in self.timings and self.timings[name].seconds for name in names)

    def ratio(self, slower: str, faster: str) -> float | None:
        """Median over rounds of the first's time over the second's."""
        if not self.was_timed(slower, faster):
            return None
        pairs = zip(self.timings[slower].seconds, self.timings[faster].seconds, strict=True)
        return statistics.median(first / second for first, second in pairs)

    def speedup(self, peer: str) -> float | None:
        """How many times as fast as the peer we are."""
        return self.ratio(peer, OURS)

    def share_of_full(self) -> float | None:
        return self.ratio(OURS, FULL)

    def work(self, timing: Timing) -> Case:
        """The problem that the contender solved."""
        return self.case.unmasked() if timing.contender == FULL else self.case

    def peak_fraction(self, timing: Timing) -> float:
        flop = self.work(timing).flop
        pairs = zip(timing.seconds, self.peak, strict=True)
        return statistics.median(flop / seconds / peak for seconds, peak in pairs)

    def bandwidth_fraction(self, timing: Timing) -> float | None:
        if not self.bandwidth:
            return None
        pairs = zip(timing.seconds, self.bandwidth, strict=True)
        return statistics.median(self.case.kv_bytes / seconds / rate for seconds, rate in pairs)


class Turn:
    """A contender's calls in one round. Short ones follow an untimed one, to warm up, and are repeated."""

    def __init__(self, timing: Timing, calls: list[Callable[[], Any]], turn_seconds: float):
        self.timing = timing
        self.calls = itertools.cycle(calls)
        self.turn_seconds = turn_seconds
        self.estimate = min(self.time(1) for _ in range(2))

    def time(self, count: int) -> float:
        start = time.perf_counter()
        for call in itertools.islice(self.calls, count):
            call()
        return (time.perf_counter() - start) / count

    def take(self) -> None:
        time.sleep(SETTLE_SECONDS)
        if self.estimate < self.turn_seconds:
            self.time(1)
        self.timing.seconds.append(self.time(max(1, round(self.turn_seconds / self.estimate))))


def measure(
    case: Case,
    contenders: list[Contender],
    *,
    threads: int,
    effort: Effort,
    rounds: int | None,
    compute_peak: ComputePeak,
    bandwidth: ReadBandwidth | None,
    on_progress: Callable[[float], object],
) -> Measurement:
    """`on_progress` is told the fraction of the case that each step was."""
    result = Measurement(case, compute_peak.kernel)
    timed_pass = (Backward if case.backward else Forward)(case)
    turns = []

    def enter(contender: Contender, name: str, entered: Case) -> None:
        timing = result.timings[name] = Timing(name)
        try:
            bind = timed_pass.prepare(contender, entered, threads)
            calls = [bind(operands) for operands in timed_pass.operand_sets]
        except Unavailable as reason:
            timing.reason = str(reason)
            return
        answer = calls[0]()
        if entered is case:
            timing.error = timed_pass.error(contender, answer)
        turns.append(Turn(timing, calls, effort.turn_seconds))

    for contender in contenders:
        enter(contender, contender.name, case)
        if contender.name == OURS and case.masked:
            enter(contender, FULL, case.unmasked())

    order = random.Random(0)
    round_seconds = sum(SETTLE_SECONDS + max(turn.estimate, 2 * effort.turn_seconds) for turn in turns)
    affordable = round(effort.seconds / round_seconds)
    count = rounds or min(max(affordable, effort.fewest_rounds), effort.most_rounds)

    def probe_machine() -> None:
        time.sleep(SETTLE_SECONDS)
        result.peak.append(compute_peak.measure())
        if bandwidth:
            result.bandwidth.append(bandwidth.measure())

    steps = [probe_machine, *(turn.take for turn in turns)]
    for _ in range(count):
        order.shuffle(steps)  # nobody always follows the same one
        for step in steps:
            step()
        on_progress(1 / count)
    return result

"""Holds measurements against the targets of their cases."""

from dataclasses import dataclass

from benchmarks.cases import Case, Target
from benchmarks.contenders import OURS
from benchmarks.measure import Measurement


@dataclass(frozen=True)
class Verdict:
    case: Case
    target: Target
    value: float | None  # None where somebody who is needed for it was not timed

    @property
    def outcome(self) -> str:
        if self.value is None:
            return "not measured"
        return "met" if self.target.met_by(self.value) else "not met"


def verdicts(measurement: Measurement) -> list[Verdict]:
    return [
        Verdict(measurement.case, target, value(measurement, target)) for target in measurement.case.targets
    ]


def value(measurement: Measurement, target: Target) -> float | None:
    if target.measure == "speedup":
        return measurement.speedup(target.peer)
    if not measurement.was_timed(OURS):
        return None
    ours = measurement.timings[OURS]
    if target.measure == "peak_fraction":
        return measurement.peak_fraction(ours)
    if target.measure == "bandwidth_fraction":
        return measurement.bandwidth_fraction(ours)
    return measurement.share_of_full()

"""The two passes of attention as measure.py needs them: operands, what to call, how wrong an answer is."""

from collections.abc import Callable
from typing import Any

from benchmarks.cases import Case
from benchmarks.contenders import OURS, Call, Contender
from benchmarks.gradients import GradientReference
from benchmarks.operands import Reference, gradient_operands, rotation


class Forward:
    def __init__(self, case: Case):
        self.case = case
        self.operand_sets = rotation(case)
        self.reference = Reference(case, self.operand_sets[0])

    def prepare(self, contender: Contender, case: Case, threads: int) -> Callable[[Any], Call]:
        return contender.prepare(case, threads)

    def error(self, contender: Contender, answer: Any) -> float:
        return self.reference.error(contender.to_numpy(answer, self.case))


class Backward:
    def __init__(self, case: Case):
        self.case = case
        self.operand_sets = [gradient_operands(case)]
        self.reference = GradientReference(case, self.operand_sets[0])

    def prepare(self, contender: Contender, case: Case, threads: int) -> Callable[[Any], Call]:
        return contender.prepare_backward(case, threads)

    def error(self, contender: Contender, answer: Any) -> float | None:
        if self.case.dropout_p and contender.name != OURS:
            return None  # each drops weights of its own choice
        return self.reference.error(contender.gradients_to_numpy(answer))

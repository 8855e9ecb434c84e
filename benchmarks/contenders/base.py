"""What a contender is, and the refusals that several share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from benchmarks.cases import Case
from benchmarks.operands import GradientOperands, Operands

Call = Callable[[], Any]


class Unavailable(Exception):
    """Why a peer is not timed on a case."""


class Contender(ABC):
    name: ClassVar[str]
    why_no_backward: ClassVar[str] = "has no backward pass"

    @abstractmethod
    def load(self, threads: int) -> str:
        """Imports the peer, makes it use as many threads, and returns its version."""

    @abstractmethod
    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        """What turns operands into the call to time."""

    def to_numpy(self, out: Any, case: Case) -> np.ndarray:
        """(B, H, Nq, D) from what the call returned."""
        return out.reshape(output_shape(case))

    def prepare_backward(self, case: Case, threads: int) -> Callable[[GradientOperands], Call]:
        """What turns operands into the call that gives their gradients; the forward pass is done by then."""
        raise Unavailable(self.why_no_backward)

    def prepare_training(self, case: Case, threads: int) -> Callable[[GradientOperands], Call]:
        """What turns operands into a call of both passes."""
        raise Unavailable(self.why_no_backward)

    def gradients_to_numpy(self, gradients: Any) -> list[np.ndarray]:
        """Of query, key, value, and the bias if there is one."""
        return [gradient for gradient in gradients if gradient is not None]


def output_shape(case: Case) -> tuple[int, int, int, int]:
    return case.batch, case.heads, case.query_length, case.head_dim


def refuse_forced_isa(case: Case) -> None:
    if case.cpu_isa != "auto":
        raise Unavailable("cannot be told which instruction set to use")


def refuse_window(case: Case) -> None:
    if case.window is not None:
        raise Unavailable("has no sliding window")
    if case.pattern is not None:
        raise Unavailable("has no sparse attention")


def refuse_grouped_mask(case: Case) -> None:
    """For a peer without grouped heads: see grouped_as_rows."""
    if case.masked and case.kv_heads != case.heads:
        raise Unavailable("has no grouped heads under a mask")


def grouped_as_rows(case: Case, query: np.ndarray) -> np.ndarray:
    """Query heads that share keys as rows of one head, which without a mask is the same."""
    return query.reshape(case.batch, case.kv_heads, -1, case.head_dim)

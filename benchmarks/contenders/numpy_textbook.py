import math
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders.base import (
    Call,
    Contender,
    Unavailable,
    grouped_as_rows,
    refuse_forced_isa,
)
from benchmarks.operands import Operands

MOST_FLOP = 1.5e9


class Numpy(Contender):
    """The textbook, as a floor."""

    name = "NumPy"

    def load(self, threads: int) -> str:
        del threads  # its BLAS reads the environment, which __main__.py sets
        return np.__version__

    def prepare(self, case: Case, threads: int) -> Callable[[Operands], Call]:
        refuse_forced_isa(case)
        if case.dtype != "float32":
            raise Unavailable("has no fast matrix product in 16 bits")
        if case.masked or case.flop > MOST_FLOP:
            raise Unavailable("is timed on small problems without a mask only")
        scale = np.float32(1 / math.sqrt(case.head_dim))

        def bind(operands: Operands) -> Call:
            query = grouped_as_rows(case, operands.query)
            return partial(textbook, query, operands.key, operands.value, scale)

        return bind


def textbook(query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: np.float32) -> np.ndarray:
    scores = query @ key.swapaxes(-1, -2)
    scores *= scale
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores @ value

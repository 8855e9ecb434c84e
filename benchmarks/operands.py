"""Random operands of a case, and how far an answer is from float64."""

import math
from typing import NamedTuple

import ml_dtypes
import numpy as np

from benchmarks.cases import Case
from benchmarks.patterns import pairs_seen

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SAMPLED_HEADS = 4
SAMPLED_ROWS = 64


class Operands(NamedTuple):
    """(B, H, N, D) each, the heads of key and value possibly fewer."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray


class GradientOperands(NamedTuple):
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    dout: np.ndarray  # as query
    bias: np.ndarray | None  # (B, H, Nq, Nkv)

    @property
    def inputs(self) -> list[np.ndarray]:
        """Those that have gradients."""
        return [array for array in (self.query, self.key, self.value, self.bias) if array is not None]


def normal(generator: np.random.Generator, case: Case, shape: tuple[int, ...]) -> np.ndarray:
    return generator.standard_normal(shape, dtype=np.float32).astype(DTYPES[case.dtype])


def rotation(case: Case) -> list[Operands]:
    """Sets of equal operands, so many that their keys and values fill `rotate_bytes` (at least one set)."""
    generator = np.random.default_rng(0)
    query_shape, key_shape = shapes(case)
    first = Operands(*(normal(generator, case, shape) for shape in (query_shape, key_shape, key_shape)))
    copies = max(1, math.ceil(case.rotate_bytes / case.kv_bytes)) - 1
    return [first, *(Operands(*(operand.copy() for operand in first)) for _ in range(copies))]


def gradient_operands(case: Case) -> GradientOperands:
    generator = np.random.default_rng(0)
    query_shape, key_shape = shapes(case)
    arrays = [normal(generator, case, shape) for shape in (query_shape, key_shape, key_shape, query_shape)]
    bias = normal(generator, case, (*query_shape[:3], case.key_length)) if case.bias else None
    return GradientOperands(*arrays, bias)


def shapes(case: Case) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of query, and of key and value."""
    return (
        (case.batch, case.heads, case.query_length, case.head_dim),
        (case.batch, case.kv_heads, case.key_length, case.head_dim),
    )


def keys_seen(case: Case, rows: np.ndarray) -> np.ndarray:
    """(rows, Nkv), of a masked case."""
    if case.pattern is not None:
        return pairs_seen(case.pattern, case.block, rows, case.key_length)
    behind = rows[:, None] - np.arange(case.key_length)
    return (behind >= 0) & (behind < (case.window or case.key_length))


def sample(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, most, dtype=np.int64))


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class Reference:
    """The float64 answer of a case, for some of its heads and rows."""

    def __init__(self, case: Case, operands: Operands):
        self.batches = sample(case.batch, 2)
        self.heads = sample(case.heads, SAMPLED_HEADS)
        self.rows = sample(case.query_length, SAMPLED_ROWS)
        shared = self.heads // (case.heads // case.kv_heads)
        query = self.sampled(operands.query)
        key, value = (
            operand[np.ix_(self.batches, shared)].astype(np.float64)
            for operand in (operands.key, operands.value)
        )
        scores = query @ key.swapaxes(-1, -2) / math.sqrt(case.head_dim)
        if case.masked:
            scores = np.where(keys_seen(case, self.rows), scores, -np.inf)
        self.expected = softmax(scores) @ value

    def sampled(self, array: np.ndarray) -> np.ndarray:
        return array[np.ix_(self.batches, self.heads, self.rows)].astype(np.float64)

    def error(self, out: np.ndarray) -> float:
        """Relative Frobenius norm of what (B, H, Nq, D) `out` is off by."""
        difference = self.sampled(out) - self.expected
        return float(np.linalg.norm(difference) / np.linalg.norm(self.expected))

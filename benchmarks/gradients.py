"""How far gradients are from float64."""

import math

import numpy as np

from benchmarks.cases import Case
from benchmarks.contenders.ours import weights_kept
from benchmarks.operands import GradientOperands, keys_seen, sample, softmax

SAMPLED_KV_HEADS = 2
ROWS_AT_ONCE = 512


class GradientReference:
    """The float64 gradients of a case, for some heads of its keys and all query heads that share them."""

    def __init__(self, case: Case, operands: GradientOperands):
        self.batches = sample(case.batch, 2)
        self.kv_heads = sample(case.kv_heads, SAMPLED_KV_HEADS)
        shared = case.heads // case.kv_heads
        self.heads = (self.kv_heads[:, None] * shared + np.arange(shared)).ravel()
        kept = weights_kept(case, operands) if case.dropout_p else None
        query, dout, bias, kept = map(self.of_heads, (operands.query, operands.dout, operands.bias, kept))
        key, value = map(self.of_kv_heads, (operands.key, operands.value))
        expected = [np.zeros(array.shape) for array in (query, key, value, bias) if array is not None]
        for batch, head in np.ndindex(query.shape[:2]):
            kv_head = head // shared
            places = [(batch, index) for index in (head, kv_head, kv_head, head)]
            add_head(
                case,
                query[batch, head],
                key[batch, kv_head],
                value[batch, kv_head],
                dout[batch, head],
                None if bias is None else bias[batch, head],
                None if kept is None else kept[batch, head],
                [gradient[place] for gradient, place in zip(expected, places, strict=False)],
            )
        self.expected = flat(expected)

    def of_heads(self, array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[np.ix_(self.batches, self.heads)].astype(np.float64)

    def of_kv_heads(self, array: np.ndarray) -> np.ndarray:
        return array[np.ix_(self.batches, self.kv_heads)].astype(np.float64)

    def error(self, gradients: list[np.ndarray]) -> float:
        """Relative Frobenius norm of what all gradients together are off by."""
        query, key, value, *bias = gradients
        sampled = [self.of_heads(query), self.of_kv_heads(key), self.of_kv_heads(value)]
        sampled += map(self.of_heads, bias)
        return float(np.linalg.norm(flat(sampled) - self.expected) / np.linalg.norm(self.expected))


def add_head(
    case: Case,
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    dout: np.ndarray,
    bias: np.ndarray | None,
    kept: np.ndarray | None,
    gradients: list[np.ndarray],
) -> None:
    """Adds to the gradients of query, key, value and bias, a block of rows at a time."""
    dquery, dkey, dvalue, *dbias = gradients
    scale = 1 / math.sqrt(case.head_dim)
    for begin in range(0, case.query_length, ROWS_AT_ONCE):
        rows = np.arange(begin, min(begin + ROWS_AT_ONCE, case.query_length))
        scores = scale * query[rows] @ key.T
        if bias is not None:
            scores += bias[rows]
        if case.masked:
            scores = np.where(keys_seen(case, rows), scores, -np.inf)
        weights = softmax(scores)
        multipliers = 1.0 if kept is None else kept[rows] / (1 - case.dropout_p)
        dvalue += (weights * multipliers).T @ dout[rows]
        dweights = multipliers * (dout[rows] @ value.T)
        dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
        dquery[rows] += scale * dscores @ key
        dkey += scale * dscores.T @ query[rows]
        for each in dbias:
            each[rows] += dscores


def flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])

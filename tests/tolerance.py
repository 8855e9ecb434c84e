"""How far from float64 an answer may be, computed from the precisions that the contract lets a kernel use.

Dot products and sums follow the probabilistic bound of Higham and Mary (2019): n roundings of unit u add up
to at most CONFIDENCE * sqrt(n) * u relative to the sum of magnitudes, but for a chance of
2 exp(-CONFIDENCE**2 / 2).
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import oracle

CONFIDENCE = 6.0
ELEMENTARY_ROUNDINGS = 8  # scale, softcap, biases, subtraction of the maximum, exponential, division


def unit_roundoff(dtype):
    return float(ml_dtypes.finfo(dtype).eps) / 2


def smallest_step(dtype):
    """Spacing of the subnormal numbers."""
    return float(ml_dtypes.finfo(dtype).smallest_subnormal)


FLOAT32 = unit_roundoff(np.float32)
FLOAT32_TINY = float(np.finfo(np.float32).tiny)


def summation(count):
    """Relative error of a float32 sum of `count` terms against the sum of their magnitudes."""
    return CONFIDENCE * np.sqrt(max(count, 1)) * FLOAT32


@dataclass(frozen=True)
class Reference:
    """A float64 answer and how far from it each element may be."""

    out: np.ndarray
    logsumexp: np.ndarray
    out_bound: np.ndarray
    logsumexp_bound: np.ndarray


def reference(query, key, value, *, weight_dtype, out_dtype, **features):
    """The oracle's answer for (B, H, N, D) float64 operands and its `features`, with bounds for a kernel that
    rounds the weights to `weight_dtype` before they multiply the values, and writes `out_dtype`.
    """
    # Values and their magnitudes share one pass: the second half is sum_j weight_j |v_j|.
    both = np.concatenate([value, np.abs(value)], axis=-1)
    both_out, logsumexp = oracle.attention(query, key, both, **features)
    out, weighted_magnitude = np.split(both_out, 2, axis=-1)
    key_length, head_dim = key.shape[2:]

    magnitude = _score_magnitude(query, key, **features)
    score_error = (summation(head_dim) + ELEMENTARY_ROUNDINGS * FLOAT32) * magnitude
    with np.errstate(over="ignore"):
        weight_error = np.expm1(2 * score_error) + ELEMENTARY_ROUNDINGS * FLOAT32
    relative = weight_error + 2 * summation(key_length) + _weight_rounding(weight_dtype)

    # Weights below the range of their type vanish, and dot-product instructions may flush subnormal operands.
    lost_weight = max(smallest_step(weight_dtype) / 2, FLOAT32_TINY)
    group = query.shape[1] // key.shape[1]
    largest = np.abs(np.nan_to_num(value, posinf=0, neginf=0)).max(axis=2, initial=0, keepdims=True)
    lost = key_length * (lost_weight * np.repeat(largest, group, axis=1) + FLOAT32_TINY)
    written = unit_roundoff(out_dtype) * np.abs(out) + smallest_step(out_dtype)
    with np.errstate(invalid="ignore"):
        out_bound = relative[..., None] * weighted_magnitude + lost + written
        logsumexp_bound = (
            score_error + 2 * summation(key_length) + ELEMENTARY_ROUNDINGS * FLOAT32 * (1 + np.abs(logsumexp))
        )
    return Reference(out, logsumexp, out_bound, logsumexp_bound)


def _weight_rounding(dtype):
    return unit_roundoff(dtype) if np.dtype(dtype) != np.float32 else 0.0


def _score_magnitude(
    query, key, *, softmax_scale=None, alibi_slopes=None, additive_mask=None, causal=False, offset=0,
    window=(-1, -1), bool_mask=None, softcap=0.0, sinks=None,
):  # fmt: skip
    """(B, H, Nq): the largest sum of magnitudes of the terms of any visible score in the row."""
    del softcap, sinks  # tanh never enlarges an error, and a sink is exact
    batch, heads, query_length, head_dim = query.shape
    key_length = key.shape[2]
    shape = (batch, heads, query_length, key_length)
    scale = head_dim**-0.5 if softmax_scale is None else abs(softmax_scale)
    q, k = (np.abs(np.nan_to_num(x, posinf=0, neginf=0)) for x in (query, key))
    terms = scale * (q @ np.repeat(k, heads // key.shape[1], axis=1).swapaxes(-1, -2))
    if additive_mask is not None:
        terms = terms + np.abs(np.nan_to_num(additive_mask, posinf=0, neginf=0))
    if alibi_slopes is not None:
        distance = np.abs(np.arange(query_length)[:, None] + offset - np.arange(key_length))
        terms = terms + np.broadcast_to(np.abs(alibi_slopes), shape[:2])[..., None, None] * distance
    visible = oracle.visible_keys(
        shape, causal=causal, offset=offset, window=window, bool_mask=bool_mask, additive_mask=additive_mask
    )
    return np.where(visible, terms, 0.0).max(axis=-1, initial=0.0)


def assert_within(actual, expected, bound, what="out"):
    """Each element of `actual` is within `bound` of the float64 `expected`; NaN and infinities stand where
    expected, and a value too large for the dtype of `actual` becomes an infinity."""
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, expected {expected.shape}"
    got = actual.astype(np.float64)
    largest = float(ml_dtypes.finfo(actual.dtype).max)
    overflow = np.isinf(got) & (np.sign(got) == np.sign(expected)) & (np.abs(expected) + bound > largest)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | overflow
    with np.errstate(invalid="ignore"):
        distance = np.where(same, 0.0, np.abs(got - expected))
        wrong = ~(same | (distance <= bound))
        excess = np.where(wrong, np.nan_to_num(distance / bound, nan=np.inf), 0.0)
    if wrong.any():
        worst = np.unravel_index(np.argmax(excess), wrong.shape)
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} elements are wrong; {what}{[int(i) for i in worst]} is "
            f"{got[worst]!r}, expected {expected[worst]!r} +- {bound[worst]:.3g}"
        )


def relative_error(actual, expected):
    """Frobenius norm of the difference over that of `expected`, in float64."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))

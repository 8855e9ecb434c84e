"""How far from float64 an answer may be, computed from the precisions that the contract lets a kernel use.

Dot products and sums follow the probabilistic bound of Higham and Mary (2019): n roundings of unit u add up
to at most CONFIDENCE * sqrt(n) * u relative to the sum of magnitudes, but for a chance of
2 exp(-CONFIDENCE**2 / 2).
"""

from typing import NamedTuple

import ml_dtypes
import numpy as np
from support import oracle

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


class Reference(NamedTuple):
    """A float64 answer and how far from it each element may be."""

    out: np.ndarray
    logsumexp: np.ndarray
    out_bound: np.ndarray
    logsumexp_bound: np.ndarray


def reference(query, key, value, *, weight_dtype, out_dtype, operand_rounding=0.0, **features):
    """The oracle's answer for (B, H, N, D) float64 operands and its `features`, with bounds for a kernel that
    rounds the weights to `weight_dtype` before they multiply the values, and writes `out_dtype`. Each key and
    value may be off by `operand_rounding`, relative.
    """
    # Values and their magnitudes share one pass: the second half is sum_j weight_j |v_j|.
    both = np.concatenate([value, np.abs(value)], axis=-1)
    both_out, logsumexp = oracle.attention(query, key, both, **features)
    out, weighted_magnitude = np.split(both_out, 2, axis=-1)
    key_length = key.shape[2]

    score_error = score_errors(query, key, operand_rounding, **features).max(axis=-1, initial=0.0)
    relative = weight_error(score_error) + 2 * summation(key_length) + weight_rounding(weight_dtype)
    relative = relative + operand_rounding

    with np.errstate(invalid="ignore"):
        out_bound = relative[..., None] * weighted_magnitude + written(out, out_dtype)
        out_bound += vanished(query, value, weight_dtype, **features)
        logsumexp_bound = logsumexp_error(score_error, logsumexp, key_length)
    return Reference(out, logsumexp, out_bound, logsumexp_bound)


def weight_error(score_error):
    """Of a weight, relative, where every score of its row may be off by `score_error`."""
    return exponential_error(2 * score_error) + ELEMENTARY_ROUNDINGS * FLOAT32


def exponential_error(error):
    return np.expm1(np.minimum(error, 80.0))  # beyond, it is hopeless in any case; but 0 times it must be 0


def logsumexp_error(score_error, logsumexp, key_length):
    rounding = ELEMENTARY_ROUNDINGS * FLOAT32 * (1 + magnitudes(logsumexp))
    return score_error + 2 * summation(key_length) + rounding


def weight_rounding(dtype):
    return unit_roundoff(dtype) if np.dtype(dtype) != np.float32 else 0.0


def lost(dtype):
    """Of a weight: below the range of its type it vanishes, and dot-product instructions may flush subnormal
    operands."""
    return max(smallest_step(dtype) / 2, FLOAT32_TINY)


def vanished(query, value, weight_dtype, dropout_p=0.0, **_):
    """(B, H, 1, Dv): of the output, what weights that are lost would have added."""
    kept = 1 / (1 - np.float32(dropout_p))
    largest = for_each_head(magnitudes(value).max(axis=2, initial=0, keepdims=True), query)
    return value.shape[2] * (kept * lost(weight_dtype) * largest + FLOAT32_TINY)


def written(exact, dtype):
    return unit_roundoff(dtype) * np.abs(exact) + smallest_step(dtype)


def finite(array):
    """What bounds are made of; what is not finite bounds nothing."""
    return np.nan_to_num(array, nan=0, posinf=0, neginf=0)


def magnitudes(array):
    return np.abs(finite(array))


def for_each_head(array, query):
    """Keys or values (B, Hkv, ...) as every query head reads them."""
    return np.repeat(array, query.shape[1] // array.shape[1], axis=1)


def score_errors(
    query, key, operand_rounding=0.0, *, softmax_scale=None, alibi_slopes=None, additive_mask=None,
    causal=False, offset=0, window=(-1, -1), bool_mask=None, **without_error,
):  # fmt: skip
    """(B, H, Nq, Nkv): how far off each visible score may be; 0 where the key is hidden.

    `without_error`: tanh never enlarges an error, a sink is exact, and dropout comes after the scores.
    """
    assert without_error.keys() <= {
        "softcap", "sinks", "dropout_p", "dropout_seed", "dropout_offset", "dropout_batch",
    }  # fmt: skip
    batch, heads, query_length, head_dim = query.shape
    key_length = key.shape[2]
    shape = (batch, heads, query_length, key_length)
    scale = head_dim**-0.5 if softmax_scale is None else abs(softmax_scale)
    terms = scale * (magnitudes(query) @ for_each_head(magnitudes(key), query).swapaxes(-1, -2))
    if additive_mask is not None:
        terms = terms + magnitudes(additive_mask)
    if alibi_slopes is not None:
        distance = np.abs(np.arange(query_length)[:, None] + offset - np.arange(key_length))
        terms = terms + np.broadcast_to(np.abs(alibi_slopes), shape[:2])[..., None, None] * distance
    visible = oracle.visible_keys(
        shape, causal=causal, offset=offset, window=window, bool_mask=bool_mask, additive_mask=additive_mask
    )
    relative = summation(head_dim) + ELEMENTARY_ROUNDINGS * FLOAT32 + operand_rounding
    return relative * np.where(visible, terms, 0.0)


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

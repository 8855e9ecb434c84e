"""How far from float64 a gradient may be, derived step by step from what include/mfa.h lets a kernel round.

Scores are dense here, (B, H, Nq, Nkv): the weight of a hidden key is 0, and so is every error made with it.
"""

from typing import NamedTuple

import numpy as np
from support import oracle, tolerance
from support.tolerance import (
    ELEMENTARY_ROUNDINGS,
    FLOAT32,
    FLOAT32_TINY,
    finite,
    for_each_head,
    magnitudes,
    summation,
)

ROUNDING = ELEMENTARY_ROUNDINGS * FLOAT32


class GradientReference(NamedTuple):
    """float64 gradients and how far from them each element may be."""

    exact: oracle.Gradients
    bound: oracle.Gradients

    def assert_holds(self, gradients, times=1):
        """`gradients` has the fields of oracle.Gradients; one that is None is not looked at."""
        for name in oracle.Gradients._fields:
            got = getattr(gradients, name)
            if got is not None:
                bound = times * getattr(self.bound, name)
                tolerance.assert_within(got, getattr(self.exact, name), bound, what=name)


def gradient_reference(
    dout, query, key, value, *, weight_dtype, out_dtype, gradient_dtype, dlogsumexp=None, bias_shape=None,
    bias_dtype=None, **features,
):  # fmt: skip
    """The oracle's gradients for (B, H, N, D) float64 operands, with bounds for a kernel that

    - reads `out` as a forward call wrote it, in `out_dtype`, and the logsumexp in float32,
    - rounds weights and their gradients to `weight_dtype` before they multiply rows of operands,
    - writes dq, dk and dv as `gradient_dtype`, and dbias summed to `bias_shape` as `bias_dtype`.
    """
    exact = oracle.attention_backward(dout, query, key, value, dlogsumexp=dlogsumexp, **features)
    with np.errstate(invalid="ignore", over="ignore"):
        weights = _weights(query, key, **features)
        dropped = oracle.dropout(query, key, **features)
        dweights = _dweights(dout, value, dropped)
        delta = _delta(dout, query, value, weights, dropped, dweights, weight_dtype, out_dtype, features)
        if dlogsumexp is not None:
            delta = _less(delta, np.where(np.isneginf(weights.logsumexp), 0, finite(dlogsumexp)))
        dscore_error = _dscore_error(weights, dweights, delta, exact.dbias)
        dq, dk = _products_bounds(query, key, weights, np.abs(exact.dbias), dscore_error, weight_dtype)
        dv = _dvalue_bound(dout, value, weights, dropped, weight_dtype)
        dbias, dbias_bound = bias_reference(exact.dbias, dscore_error, bias_shape, bias_dtype)
        dsinks = _dsinks_bound(weights, delta, features.get("sinks"))
    products = {
        name: bound + tolerance.written(getattr(exact, name), gradient_dtype)
        for name, bound in (("dq", dq), ("dk", dk), ("dv", dv))
    }
    return GradientReference(
        exact._replace(dbias=dbias), oracle.Gradients(**products, dbias=dbias_bound, dsinks=dsinks)
    )


class _Weights(NamedTuple):
    values: np.ndarray
    error: np.ndarray  # relative
    slopes: np.ndarray  # of scores, by products of queries and keys
    slope_error: np.ndarray
    logsumexp: np.ndarray
    logsumexp_error: np.ndarray


def _weights(query, key, *, softmax_scale=None, softcap=0.0, **features):
    """exp(score - logsumexp), of a logsumexp that the forward pass rounded."""
    score_error = tolerance.score_errors(query, key, softmax_scale=softmax_scale, **features)
    weights, slopes, logsumexp = oracle.softmax_weights(
        query, key, softmax_scale=softmax_scale, softcap=softcap, **features
    )
    most = score_error.max(axis=-1, initial=0.0)
    logsumexp_error = tolerance.logsumexp_error(most, logsumexp, key.shape[2])
    error = tolerance.exponential_error(score_error + logsumexp_error[..., None]) + ROUNDING
    slope_error = ROUNDING * np.abs(slopes)
    if softcap:
        # softcap' = 1 - tanh(x)**2, which changes by at most 2 (1 - tanh(x)**2) for each unit of x.
        scale = query.shape[3] ** -0.5 if softmax_scale is None else abs(softmax_scale)
        moved = score_error / softcap
        slope_error = 2 * np.abs(slopes) * moved + scale * (ROUNDING + moved**2)
    return _Weights(weights, error, slopes, slope_error, logsumexp, logsumexp_error)


class _Terms(NamedTuple):
    """Sums, the sums of their terms' magnitudes, and how far off the sums may be."""

    values: np.ndarray
    magnitudes: np.ndarray
    error: np.ndarray


def _dweights(dout, value, dropped):
    """dropout(dout value^T)"""
    rows, columns = finite(dout), for_each_head(finite(value), dout)
    terms = dropped * (np.abs(rows) @ np.abs(columns).swapaxes(-1, -2))
    # Dot-product instructions may take subnormal operands and products for zero.
    sizes = np.abs(rows).sum(-1)[..., None] + np.abs(columns).sum(-1)[:, :, None]
    flushed = FLOAT32_TINY * (value.shape[3] + sizes)
    error = (summation(value.shape[3]) + ROUNDING) * terms + dropped * flushed
    return _Terms(dropped * (rows @ columns.swapaxes(-1, -2)), terms, error)


def _delta(dout, query, value, weights, dropped, dweights, weight_dtype, out_dtype, features):
    """rowsum(dout * out), of an `out` with the forward pass's own error."""
    key_length, value_dim = value.shape[2:]
    out = (weights.values * dropped) @ for_each_head(finite(value), query)
    relative = weights.error + tolerance.weight_rounding(weight_dtype)
    weighted = relative * np.abs(dweights.values) + 2 * summation(key_length) * dweights.magnitudes
    rounded = tolerance.vanished(query, value, weight_dtype, **features) + tolerance.written(out, out_dtype)
    terms = (magnitudes(dout) * np.abs(out)).sum(axis=-1)
    error = (
        (weights.values * weighted).sum(axis=-1)
        + (magnitudes(dout) * rounded).sum(axis=-1)
        + (summation(value_dim) + ROUNDING) * terms
        + FLOAT32_TINY * value_dim
    )
    return _Terms((weights.values * dweights.values).sum(axis=-1), terms, error)


def _less(delta, dlogsumexp):
    values, magnitudes = delta.values - dlogsumexp, delta.magnitudes + np.abs(dlogsumexp)
    return _Terms(values, magnitudes, delta.error + ROUNDING * (np.abs(delta.values) + np.abs(dlogsumexp)))


def _dscore_error(weights, dweights, delta, dscores):
    """weights (dweights - delta)"""
    error = dweights.error + delta.error[..., None]
    largest = np.abs(dweights.values) + np.abs(delta.values)[..., None]
    return (
        weights.error * np.abs(dscores)
        + (1 + weights.error) * weights.values * (error + ROUNDING * largest)
        + np.where(weights.values > 0, FLOAT32_TINY * (1 + largest), 0)
    )


def _product(terms, error, rows, weight_dtype):
    """Bound of the sum of `rows` of an operand, each times one of `terms` that are off by `error`."""
    count = rows.shape[-2]
    relative = tolerance.weight_rounding(weight_dtype) + summation(count) + ROUNDING
    flushed = FLOAT32_TINY * (1 + count + rows.sum(axis=-2, keepdims=True))
    return (error + relative * terms) @ rows + flushed


def _by_key(scores, kv_heads):
    """(B, H, Nq, Nkv) to (B, Hkv, Nkv, group * Nq): what is summed into a key."""
    return _grouped(scores, kv_heads).swapaxes(-1, -2)


def _grouped(rows, kv_heads):
    """(B, H, Nq, D) to (B, Hkv, group * Nq, D)."""
    batch, heads, length, dim = rows.shape
    return rows.reshape(batch, kv_heads, heads // kv_heads * length, dim)


def _products_bounds(query, key, weights, dscores, dscore_error, weight_dtype):
    """dq and dk: softmax_scale softcap' dscores, times keys and queries."""
    slopes, kv_heads = np.abs(weights.slopes), key.shape[1]
    dproducts = dscores * slopes
    vanished = np.where(weights.values > 0, tolerance.lost(weight_dtype), 0)
    error = dscore_error * slopes + (dscores + dscore_error) * weights.slope_error + vanished
    dq = _product(dproducts, error, for_each_head(magnitudes(key), query), weight_dtype)
    queries = _grouped(magnitudes(query), kv_heads)
    return dq, _product(_by_key(dproducts, kv_heads), _by_key(error, kv_heads), queries, weight_dtype)


def _dvalue_bound(dout, value, weights, dropped, weight_dtype):
    kv_heads = value.shape[1]
    vanished = np.where(weights.values > 0, tolerance.lost(weight_dtype), 0)
    terms, error = dropped * weights.values, dropped * (weights.error * weights.values + vanished)
    rows = _grouped(magnitudes(dout), kv_heads)
    return _product(_by_key(terms, kv_heads), _by_key(error, kv_heads), rows, weight_dtype)


def bias_reference(exact, error, shape, dtype):
    """The gradients of scores and their errors, summed to an additive array of that shape."""
    if shape is None:
        return exact, error
    total = oracle.summed_to(exact, shape)
    count = exact.size // max(total.size, 1)
    bound = oracle.summed_to(error, shape) + summation(count) * oracle.summed_to(np.abs(exact), shape)
    return total, bound + tolerance.written(total, dtype)


def _dsinks_bound(weights, delta, sinks):
    batch, heads, rows = delta.values.shape
    if sinks is None:
        return np.zeros(heads)
    share = np.exp(np.asarray(sinks, np.float64)[:, None] - weights.logsumexp)
    error = tolerance.exponential_error(weights.logsumexp_error) + ROUNDING
    relative = error + summation(batch * rows)
    terms = share * (relative * np.abs(delta.values) + (1 + error) * delta.error)
    return terms.sum(axis=(0, 2)) + FLOAT32_TINY * (1 + batch * rows)

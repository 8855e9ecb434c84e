"""Attention and its gradients in float64, by the textbook: all scores at once. Arrays are (B, H, N, D)."""

from typing import Any, NamedTuple

import numpy


class Rows(NamedTuple):
    """Of a softmax over the keys of each row, all (B, H, Nq, Nkv) but the last two."""

    weights: numpy.ndarray
    slopes: numpy.ndarray  # derivatives of scores by the products of query and key
    sinks: numpy.ndarray  # (B, H, Nq, 1): the weights of the sinks
    logsumexp: numpy.ndarray  # (B, H, Nq)


def attention(query: Any, key: Any, value: Any, **keywords: Any) -> dict[str, numpy.ndarray]:
    """What `mfa.attention` returns for the same arguments."""
    query, key, value = (numpy.asarray(x, numpy.float64) for x in (query, key, value))
    rows = softmax_rows(query, key, **keywords)
    return {"out": rows.weights @ of_query_heads(value, query), "lse": rows.logsumexp}


def attention_backward(
    dout: Any, query: Any, key: Any, value: Any, **keywords: Any
) -> dict[str, numpy.ndarray]:
    """The gradients that `mfa.attention_backward` returns for the same arguments."""
    dout, query, key, value = (numpy.asarray(x, numpy.float64) for x in (dout, query, key, value))
    rows = softmax_rows(query, key, **keywords)
    dweights = dout @ of_query_heads(value, query).swapaxes(2, 3)
    delta = (rows.weights * dweights).sum(axis=3, keepdims=True)
    dscores = rows.weights * (dweights - delta)
    dproducts = dscores * rows.slopes
    found = {
        "dq": dproducts @ of_query_heads(key, query),
        "dk": of_kv_heads(dproducts.swapaxes(2, 3) @ query, key),
        "dv": of_kv_heads(rows.weights.swapaxes(2, 3) @ dout, key),
    }
    if keywords.get("bias") is not None:
        found["dbias"] = summed_to(dscores, keywords["bias"].shape)
    if keywords.get("sinks") is not None:
        found["dsinks"] = -(rows.sinks * delta).sum(axis=(0, 2, 3))
    return found


def softmax_rows(
    query: numpy.ndarray,
    key: numpy.ndarray,
    *,
    causal: str | None = None,
    alignment: str | None = None,
    window: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    mask: numpy.ndarray | None = None,
    bias: numpy.ndarray | None = None,
    alibi_slopes: numpy.ndarray | None = None,
    sinks: numpy.ndarray | None = None,
) -> Rows:
    """Keywords are those of `mfa.attention`; `mask` is of bool."""
    heads, queries, head_dim = query.shape[1:]
    keys = key.shape[2]
    aligned = alignment or causal or "bottom-right"
    offset = keys - queries if aligned == "bottom-right" else 0
    ahead = numpy.arange(keys) - (numpy.arange(queries)[:, None] + offset)
    scale = head_dim**-0.5
    scores = scale * (query @ of_query_heads(key, query).swapaxes(2, 3))
    slopes = numpy.full_like(scores, scale)
    if softcap:
        bent = numpy.tanh(scores / softcap)
        scores, slopes = softcap * bent, scale * (1 - bent**2)
    if alibi_slopes is not None:
        scores = scores - numpy.float64(alibi_slopes)[..., None, None] * abs(ahead)
    if bias is not None:
        scores = scores + bias
    seen = numpy.full(scores.shape, True) if mask is None else numpy.broadcast_to(mask, scores.shape)
    left, right = window
    if causal:
        seen = seen & (ahead <= 0)
    if left >= 0:
        seen = seen & (ahead >= -left)
    if right >= 0:
        seen = seen & (ahead <= right)
    scores = numpy.where(seen, scores, -numpy.inf)
    sink = numpy.full(heads, -numpy.inf) if sinks is None else numpy.float64(sinks)
    sink = numpy.broadcast_to(sink[:, None, None], (*scores.shape[:3], 1))
    return Rows(*softmax(scores, sink, slopes))


def softmax(scores, sink, slopes):
    highest = numpy.maximum(scores.max(axis=3, keepdims=True, initial=-numpy.inf), sink)
    highest = numpy.where(highest == -numpy.inf, 0, highest)  # of rows that see nothing
    weights, of_sink = numpy.exp(scores - highest), numpy.exp(sink - highest)
    total = weights.sum(axis=3, keepdims=True) + of_sink
    with numpy.errstate(divide="ignore"):
        logsumexp = (highest + numpy.log(total))[..., 0]
    total = numpy.where(total == 0, 1, total)
    return weights / total, slopes, of_sink / total, logsumexp


def of_query_heads(array, query):
    """Keys or values as each head of the queries reads them."""
    return numpy.repeat(array, query.shape[1] // array.shape[1], axis=1)


def of_kv_heads(array, key):
    """Summed over the heads that share one of `key`."""
    batch, heads, rows, columns = array.shape
    group = heads // key.shape[1]
    return array.reshape(batch, key.shape[1], group, rows, columns).sum(axis=2)


def summed_to(array, shape):
    """Over the axes along which an array of `shape` was broadcast."""
    shape = (1,) * (array.ndim - len(shape)) + shape
    axes = tuple(axis for axis in range(array.ndim) if shape[axis] == 1 < array.shape[axis])
    return array.sum(axis=axes, keepdims=True)

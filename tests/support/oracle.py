"""Attention and its gradients in float64, written as their definition: one row at a time, over the keys that
the row sees.

Arrays are (B, H, N, D); every rule is the contract of include/mfa.h. Nothing here knows about tiles, so a
value that a row cannot see is never even read for that row.
"""

from typing import NamedTuple

import numpy as np
from support.philox import dropout_factors


def key_offset(alignment, query_length, key_length):
    """Row i stands at key i + offset."""
    return {"top-left": 0, "bottom-right": key_length - query_length}[alignment]


def keys_in_range(query_length, key_length, *, causal=False, offset=0, window=(-1, -1)):
    """Bool (Nq, Nkv): what the causal mask and the window leave visible."""
    position = np.arange(query_length)[:, None] + offset
    key_index = np.arange(key_length)[None, :]
    left, right = window
    visible = np.ones((query_length, key_length), bool)
    if causal:
        visible &= key_index <= position
    if left >= 0:
        visible &= key_index >= position - left
    if right >= 0:
        visible &= key_index <= position + right
    return visible


def visible_keys(shape, *, causal=False, offset=0, window=(-1, -1), bool_mask=None, additive_mask=None):
    """Bool, broadcast to `shape` = (B, H, Nq, Nkv)."""
    visible = np.broadcast_to(keys_in_range(*shape[2:], causal=causal, offset=offset, window=window), shape)
    if bool_mask is not None:
        visible = visible & bool_mask
    if additive_mask is not None:
        visible = visible & (additive_mask != -np.inf)
    return visible


class Row(NamedTuple):
    """One row of softmax weights, over the keys that it sees."""

    at: tuple  # batch, head, row
    kv: tuple  # batch, key/value head
    seen: np.ndarray | slice  # which keys
    weights: np.ndarray  # 0 if no score is above -inf
    slopes: np.ndarray  # derivative of each score by its product of query and key
    logsumexp: float


def softmax_rows(
    query,
    key,
    *,
    softmax_scale=None,
    causal=False,
    offset=0,
    window=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    bool_mask=None,
    additive_mask=None,
    sinks=None,
    **dropout_features,
):
    """A Row for every row of every head."""
    assert dropout_features.keys() <= {"dropout_p", "dropout_seed", "dropout_offset", "dropout_batch"}
    query, key = (np.asarray(x, np.float64) for x in (query, key))
    batch, heads, query_length, head_dim = query.shape
    key_length, group = key.shape[2], heads // key.shape[1]
    shape = (batch, heads, query_length, key_length)
    scale = 1 / np.sqrt(head_dim) if softmax_scale is None else float(softmax_scale)
    bias = np.broadcast_to(0.0 if additive_mask is None else np.asarray(additive_mask, np.float64), shape)
    alibi = np.broadcast_to(0.0 if alibi_slopes is None else np.asarray(alibi_slopes, np.float64), shape[:2])
    distance = np.abs(np.arange(query_length)[:, None] + offset - np.arange(key_length)[None, :])
    visible = visible_keys(
        shape, causal=causal, offset=offset, window=window, bool_mask=bool_mask, additive_mask=additive_mask
    )
    for b, h in np.ndindex(batch, heads):
        kv = b, h // group
        with np.errstate(invalid="ignore", over="ignore"):
            scores = scale * (query[b, h] @ key[kv].T)
            slopes = np.full_like(scores, scale)
            if softcap:
                bent = np.tanh(scores / softcap)
                scores, slopes = softcap * bent, scale * (1 - bent**2)
            scores = scores - alibi[b, h] * distance + bias[b, h]
        sink = -np.inf if sinks is None else float(sinks[h])
        for i in range(query_length):
            seen = _indices(visible[b, h, i])
            weights, logsumexp = _softmax(scores[i, seen], sink)
            yield Row((b, h, i), kv, seen, weights, slopes[i, seen], logsumexp)


def _indices(visible):
    """Of the true elements; as a slice where they lie in one run, which is faster."""
    found = np.flatnonzero(visible)
    if len(found) and found[-1] - found[0] + 1 == len(found):
        return slice(found[0], found[-1] + 1)
    return found


def _softmax(scores, sink):
    """Weights of one row's visible scores and its logsumexp, with the sink."""
    if np.all(scores == -np.inf):
        return np.zeros_like(scores), sink
    highest = max(scores.max(), sink) if not np.isnan(scores).any() else np.nan
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - highest)
        total = weights.sum() + np.exp(sink - highest)
        return weights / total, highest + np.log(total)


def softmax_weights(query, key, **features):
    """Weights and slopes of Row, (B, H, Nq, Nkv) and 0 where a key is hidden, and the logsumexp."""
    weights, slopes = np.zeros((2, *query.shape[:3], key.shape[2]))
    logsumexp = np.full(query.shape[:3], -np.inf)
    for row in softmax_rows(query, key, **features):
        weights[(*row.at, row.seen)] = row.weights
        slopes[(*row.at, row.seen)] = row.slopes
        logsumexp[row.at] = row.logsumexp
    return weights, slopes, logsumexp


def dropout(query, key, *, dropout_p=0.0, dropout_seed=0, dropout_offset=0, dropout_batch=0, **_):
    """(B, H, Nq, Nkv): what dropout multiplies each weight by. The first batch is number `dropout_batch`."""
    shape = (*query.shape[:3], key.shape[2])
    if not dropout_p:
        return np.broadcast_to(1.0, shape)
    shape = (dropout_batch + shape[0], *shape[1:])
    return dropout_factors(shape, dropout_p=dropout_p, seed=dropout_seed, offset=dropout_offset)[
        dropout_batch:
    ]


def attention(query, key, value, **features):
    """Returns out (B, H, Nq, Dv) and logsumexp (B, H, Nq), both float64."""
    value = np.asarray(value, np.float64)
    factors = dropout(query, key, **features)
    out = np.zeros((*query.shape[:3], value.shape[3]))
    logsumexp = np.full(query.shape[:3], -np.inf)
    for row in softmax_rows(query, key, **features):
        logsumexp[row.at] = row.logsumexp
        if row.weights.any():
            with np.errstate(invalid="ignore", over="ignore"):
                out[row.at] = (row.weights * factors[row.at][row.seen]) @ value[row.kv][row.seen]
    return out, logsumexp


class Gradients(NamedTuple):
    dq: np.ndarray
    dk: np.ndarray
    dv: np.ndarray
    dbias: np.ndarray  # (B, H, Nq, Nkv), whatever the shape of the additive mask
    dsinks: np.ndarray  # (H,); 0 without sinks


def attention_backward(dout, query, key, value, *, dlogsumexp=None, sinks=None, **features):
    """The Gradients of sum(dout * out) + sum(dlogsumexp * logsumexp), over the logsumexps that are not -inf,
    where out and logsumexp are those of `attention` with the same arguments."""
    dout, query, key, value = (np.asarray(x, np.float64) for x in (dout, query, key, value))
    factors = dropout(query, key, **features)
    g = Gradients(
        np.zeros_like(query),
        np.zeros_like(key),
        np.zeros_like(value),
        np.zeros(factors.shape),
        np.zeros(query.shape[1]),
    )
    for row in softmax_rows(query, key, sinks=sinks, **features):
        head = row.at[1]
        kept = factors[row.at][row.seen]
        with np.errstate(invalid="ignore", over="ignore"):
            # out = sum_j weight_j kept_j value_j
            dweights = kept * (value[row.kv][row.seen] @ dout[row.at])
            g.dv[row.kv][row.seen] += np.outer(row.weights * kept, dout[row.at])
            # Each weight falls as the sum of exponentials rises, the sink's included.
            delta = row.weights @ dweights
            if dlogsumexp is not None and row.logsumexp != -np.inf:
                delta = delta - float(dlogsumexp[row.at])
            dscores = row.weights * (dweights - delta)
            if sinks is not None:
                g.dsinks[head] -= _share(sinks[head], row.logsumexp) * delta
            g.dbias[(*row.at, row.seen)] = dscores
            dproducts = dscores * row.slopes
            g.dq[row.at] = dproducts @ key[row.kv][row.seen]
            g.dk[row.kv][row.seen] += np.outer(dproducts, query[row.at])
    return g


def _share(sink, logsumexp):
    """The weight of the sink in its row."""
    return 0.0 if sink == -np.inf else np.exp(float(sink) - logsumexp)


def summed_to(array, shape):
    """`array` summed over the axes along which `shape` is broadcast to it: the gradient of that broadcast."""
    padded = (1,) * (array.ndim - len(shape)) + tuple(shape)
    axes = tuple(
        axis for axis, (size, full) in enumerate(zip(padded, array.shape, strict=True)) if size != full
    )
    return array.sum(axis=axes, keepdims=True).reshape(shape)


def combine(parts):
    """Joins (out, logsumexp) computed over disjoint sets of keys into that over all of them."""
    outs, logsumexps = (
        np.stack([np.asarray(x, np.float64) for x in column]) for column in zip(*parts, strict=True)
    )
    highest = logsumexps.max(axis=0)
    highest = np.where(np.isneginf(highest), 0.0, highest)
    weights = np.exp(logsumexps - highest)
    total = weights.sum(axis=0)
    with np.errstate(divide="ignore"):
        logsumexp = highest + np.log(total)
    return (weights[..., None] * outs).sum(axis=0) / np.where(total == 0, 1.0, total)[..., None], logsumexp

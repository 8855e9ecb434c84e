"""Attention in float64, written as its definition: one row at a time, over the keys that the row sees.

Arrays are (B, H, N, D); every rule is the contract of include/mfa.h. Nothing here knows about tiles, so a
value that a row cannot see is never even read for that row.
"""

import numpy as np


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


def attention(
    query,
    key,
    value,
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
):
    """Returns out (B, H, Nq, Dv) and logsumexp (B, H, Nq), both float64."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    batch, heads, query_length, head_dim = query.shape
    key_length, group = key.shape[2], heads // key.shape[1]
    shape = (batch, heads, query_length, key_length)
    scale = 1 / np.sqrt(head_dim) if softmax_scale is None else float(softmax_scale)
    bias = np.broadcast_to(0.0 if additive_mask is None else np.asarray(additive_mask, np.float64), shape)
    slopes = np.broadcast_to(0.0 if alibi_slopes is None else np.asarray(alibi_slopes, np.float64), shape[:2])
    distance = np.abs(np.arange(query_length)[:, None] + offset - np.arange(key_length)[None, :])
    visible = visible_keys(
        shape, causal=causal, offset=offset, window=window, bool_mask=bool_mask, additive_mask=additive_mask
    )

    out = np.zeros((*shape[:3], value.shape[3]))
    logsumexp = np.full(shape[:3], -np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        for b, h in np.ndindex(batch, heads):
            scores = scale * (query[b, h] @ key[b, h // group].T)
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            scores = scores - slopes[b, h] * distance + bias[b, h]
            sink = -np.inf if sinks is None else float(sinks[h])
            for i in range(query_length):
                seen = np.flatnonzero(visible[b, h, i])
                row, logsumexp[b, h, i] = _softmax(scores[i, seen], sink)
                if row is not None:
                    out[b, h, i] = row @ value[b, h // group, seen]
    return out, logsumexp


def _softmax(scores, sink):
    """Weights of one row's visible scores (None if all are zero) and its logsumexp, with the sink."""
    if np.all(scores == -np.inf):
        return None, sink
    highest = max(scores.max(), sink) if not np.isnan(scores).any() else np.nan
    weights = np.exp(scores - highest)
    total = weights.sum() + np.exp(sink - highest)
    return weights / total, highest + np.log(total)


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

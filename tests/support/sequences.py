"""Sequences, pages, chunks, qv and descale for the oracle, which knows none of them: each sequence is
gathered from wherever its rows lie and becomes a plain call."""

from typing import NamedTuple

import numpy as np

LISTS = (
    "cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k", "leftpad_k", "cache_batch_idx", "page_table",
    "max_seqlen_q", "max_seqlen_k",
)  # fmt: skip
KEYWORDS = (*LISTS, "attention_chunk", "qv", "q_descale", "k_descale", "v_descale")


class Places(NamedTuple):
    """Where the rows of a sequence lie: the batch, or page, of each and the row in it."""

    batches: np.ndarray
    rows: np.ndarray

    def __len__(self):
        return len(self.rows)

    def gather(self, array):
        """(1, H, N, ...) of a (B, H, N, ...)."""
        return array[self.batches, :, self.rows].swapaxes(0, 1)[None]

    def scatter(self, array, rows):
        array[self.batches, :, self.rows] = rows[0].swapaxes(0, 1)

    def last(self, count):
        first = len(self) - count
        return Places(self.batches[first:], self.rows[first:])


class Sequence(NamedTuple):
    queries: Places
    keys: Places


def is_plain(options):
    """Whether no keyword needs this module."""
    return not any(options.get(name) is not None and name in KEYWORDS for name in options)


def sequences(query, key, options):
    """A Sequence for each; arrays are (B, H, N, D)."""
    lists = {name: options.get(name) for name in LISTS}
    starts = lists["cu_seqlens_q"]
    count = query.shape[0] if starts is None else len(starts) - 1
    return [Sequence(_queries(query, b, lists), _keys(key, b, lists)) for b in range(count)]


def _rows(batch, first, length):
    return Places(np.full(length, batch), np.arange(first, first + length))


def _queries(query, b, lists):
    starts, used = lists["cu_seqlens_q"], lists["seqused_q"]
    batch, first, length = (
        (b, 0, query.shape[2]) if starts is None else (0, starts[b], starts[b + 1] - starts[b])
    )
    return _rows(batch, first, length if used is None else used[b])


def _keys(key, b, lists):
    starts, used, padding, table = (
        lists[name] for name in ("cu_seqlens_k", "seqused_k", "leftpad_k", "page_table")
    )
    batch = b if lists["cache_batch_idx"] is None else lists["cache_batch_idx"][b]
    if table is not None:
        capacity = table.shape[1] * key.shape[2]
    else:
        capacity = key.shape[2] if starts is None else starts[b + 1] - starts[b]
    reached = np.arange(0 if padding is None else padding[b], capacity if used is None else used[b])
    if table is not None:
        return Places(table[b, reached // key.shape[2]], reached % key.shape[2])
    if starts is not None:
        return Places(np.zeros_like(reached), starts[b] + reached)
    return Places(np.full_like(reached, batch), reached)


def most(query, key, options):
    """Rows and keys that masks have."""
    found = sequences(query, key, options)
    rows = max((len(s.queries) for s in found), default=0)
    keys = max((len(s.keys) for s in found), default=0)
    rows = rows if options.get("cu_seqlens_q") is not None else query.shape[2]
    is_scattered = options.get("cu_seqlens_k") is not None or options.get("page_table") is not None
    keys = keys if is_scattered else key.shape[2]
    return options.get("max_seqlen_q") or rows, options.get("max_seqlen_k") or keys


class PlainCall(NamedTuple):
    """One sequence. Arrays are (1, H, N, D), of float64 where a feature has changed them."""

    at: int
    sequence: Sequence
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    stored_value: np.ndarray  # without its factor
    options: dict


def plain_calls(query, key, value, options):
    """A PlainCall for each sequence; arrays are (B, H, N, D), qv too."""
    for b, sequence in enumerate(sequences(query, key, options)):
        q = sequence.queries.gather(query)
        k, v = sequence.keys.gather(key), sequence.keys.gather(value)
        rest = {name: x for name, x in options.items() if name not in KEYWORDS}
        for name in ("mask", "bias"):
            if rest.get(name) is not None:
                rest[name] = cropped(rest[name], b, len(sequence.queries), len(sequence.keys))
        slopes = rest.get("alibi_slopes")
        if slopes is not None and slopes.ndim == 2:
            rest["alibi_slopes"] = slopes[b]
        if rest.get("dropout_p"):
            rest["dropout_batch"] = b
        stored = v
        q, k, v = _scaled(q, k, v, b, options)
        if options.get("attention_chunk"):
            rest = _with_chunk(rest, q.shape[2], k.shape[2], options["attention_chunk"])
        yield PlainCall(b, sequence, q, k, v, stored, rest)


def with_query_value(call, qv, options):
    """A PlainCall in which qv is part of the query: what it is multiplied by, the values, are part of the
    keys and scaled as they are."""
    heads, kv_heads = call.query.shape[1], call.key.shape[1]
    qv = _factor(options.get("q_descale"), call.at, heads, kv_heads) * call.sequence.queries.gather(qv)
    values = _factor(options.get("k_descale"), call.at, kv_heads, kv_heads) * call.stored_value
    query = np.concatenate([call.query, qv.astype(np.float64)], axis=-1)
    scale = call.options.get("softmax_scale")
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key = np.concatenate([call.key, values.astype(np.float64)], axis=-1)
    return call._replace(query=query, key=key, options=call.options | {"softmax_scale": scale})


def cropped(mask, b, rows, keys):
    """What of a mask that broadcasts to (B, H, most rows, most keys) is about sequence b."""
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    mask = mask[b : b + 1] if mask.shape[0] != 1 else mask
    mask = mask[:, :, :rows] if mask.shape[2] != 1 else mask
    return mask[..., :keys] if mask.shape[3] != 1 else mask


def _factor(descale, b, heads, kv_heads):
    """(H, 1, 1) of a (B or 1, Hkv or 1)."""
    if descale is None:
        return 1.0
    full = np.broadcast_to(descale[min(b, len(descale) - 1)], (kv_heads,)).astype(np.float64)
    return np.repeat(full, heads // kv_heads)[:, None, None]


def _scaled(q, k, v, b, options):
    factors = [options.get(f"{name}_descale") for name in "qkv"]
    if all(factor is None for factor in factors):
        return q, k, v
    kv_heads = k.shape[1]
    return tuple(
        x.astype(np.float64) * _factor(factor, b, x.shape[1], kv_heads)
        for x, factor in zip((q, k, v), factors, strict=True)
    )


def _with_chunk(options, rows, keys, chunk):
    causal, alignment = options.get("causal"), options.get("alignment")
    causal = "bottom-right" if causal is True else causal
    offset = 0 if (alignment or causal or "bottom-right") == "top-left" else keys - rows
    seen = (np.arange(rows)[:, None] + offset) // chunk == np.arange(keys) // chunk
    mask = options.get("mask")
    if mask is not None and mask.dtype != bool:
        options = {**options, "bias": mask}
        mask = None
    return {**options, "mask": seen if mask is None else mask & seen}

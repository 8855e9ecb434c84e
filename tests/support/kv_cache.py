"""What flash_attn_with_kvcache does, in NumPy: rows are appended, then each sequence is a plain call."""

import numpy as np
from support import checks, sequences


def turned(rows, cos, sin, positions, *, interleaved=True):
    """Rotary embedding of (..., N, H, D) in float64, each of the N rows at a position."""
    rows = rows.astype(np.float64)
    half = cos.shape[1]
    even, odd = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(half), slice(half, 2 * half))
    )
    c, s = (np.asarray(table, np.float64)[positions][:, None] for table in (cos, sin))
    x, y = rows[..., even].copy(), rows[..., odd].copy()
    rows[..., even], rows[..., odd] = x * c - y * s, x * s + y * c
    return rows


def tables(positions, rotary_dim, dtype=np.float32):
    angles = np.arange(positions)[:, None] / 100.0 ** (np.arange(rotary_dim // 2) / (rotary_dim // 2))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


class Expected:
    """What a call returns, and what its caches hold afterwards."""

    def __init__(
        self, q, k_cache, v_cache, k=None, v=None, qv=None, rotary_cos=None, rotary_sin=None,
        cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, page_table=None, cu_seqlens_q=None,
        cu_seqlens_k_new=None, max_seqlen_q=None, rotary_seqlens=None, q_descale=None, k_descale=None,
        v_descale=None, softmax_scale=None, causal=False, window_size=(-1, -1), attention_chunk=0,
        softcap=0.0, rotary_interleaved=True,
    ):  # fmt: skip
        self.k_cache, self.v_cache = k_cache.copy(), v_cache.copy()
        self.batch = len(q) if cu_seqlens_q is None else len(cu_seqlens_q) - 1
        if page_table is not None and cache_batch_idx is not None:
            page_table, cache_batch_idx = page_table[cache_batch_idx], None
        if cache_seqlens is not None:
            cache_seqlens = np.broadcast_to(np.asarray(cache_seqlens, np.int32), (self.batch,))
        lists = {
            "seqused_k": cache_seqlens,
            "cache_batch_idx": cache_batch_idx,
            "leftpad_k": cache_leftpad,
            "page_table": page_table,
            "cu_seqlens_q": cu_seqlens_q,
        }
        if k is not None:
            counts = [k.shape[1]] * self.batch if cu_seqlens_k_new is None else np.diff(cu_seqlens_k_new)
            lists["seqused_k"] = cache_seqlens + np.array(counts, np.int32)
            positions = cache_seqlens if rotary_seqlens is None else rotary_seqlens
            steps = causal or window_size != (-1, -1) or attention_chunk
            turn = None
            if rotary_cos is not None:
                turn = rotary_cos, rotary_sin, rotary_interleaved
            q = self._append(q, k, v, cu_seqlens_k_new, counts, positions, turn, steps, lists)
        self.reference = checks.expected(
            q,
            self.k_cache,
            self.v_cache,
            **lists,
            qv=qv,
            q_descale=q_descale,
            k_descale=k_descale,
            v_descale=v_descale,
            softmax_scale=softmax_scale,
            causal=causal,
            window=window_size,
            attention_chunk=attention_chunk,
            softcap=softcap,
        )

    def _append(self, q, k, v, starts, counts, positions, turn, steps, lists):
        """Writes the caches; q as it is when it meets the keys."""
        heads_first = (checks.heads_first(x, "bshd") for x in (q, self.k_cache))
        turned_q = q.copy()
        for b, sequence in enumerate(sequences.sequences(*heads_first, lists)):
            new = slice(None) if starts is None else slice(starts[b], starts[b + 1])
            new_k, new_v = (x[b] if starts is None else x[new] for x in (k, v))
            if turn is not None:
                cos, sin, interleaved = turn
                new_k = turned(new_k, cos, sin, positions[b] + np.arange(counts[b]), interleaved=interleaved)
                rows = sequence.queries.rows
                steps_of_q = np.arange(len(rows)) if steps else np.zeros(len(rows), int)
                own = turned_q if turned_q.ndim == 3 else turned_q[b]
                own[rows] = turned(own[rows], cos, sin, positions[b] + steps_of_q, interleaved=interleaved)
            places = sequence.keys.last(counts[b])
            self.k_cache[places.batches, places.rows] = new_k
            self.v_cache[places.batches, places.rows] = new_v
        return turned_q

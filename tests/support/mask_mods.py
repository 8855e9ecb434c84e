"""mask_mods as people write them, for NumPy's arrays and torch's, and the dense masks that they stand for."""

import numpy as np

DOCUMENTS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 3] * 60).cumsum() % 7
LENGTHS = np.array([5, 70, 33])


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def window(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (q_idx - kv_idx < 20)


def prefix(b, h, q_idx, kv_idx):
    return (kv_idx < 9) | (q_idx >= kv_idx)


def strided(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx) % 3 == 0


def by_head(b, h, q_idx, kv_idx):
    return (h % 2 == 0) | (q_idx >= kv_idx)


def by_batch(b, h, q_idx, kv_idx):
    return kv_idx < 10 * b + 7


def nothing(b, h, q_idx, kv_idx):
    return (q_idx < 0) & (kv_idx < 0)


def documents(array=DOCUMENTS):
    def document(b, h, q_idx, kv_idx):
        return array[q_idx] == array[kv_idx]

    return document


def padding(array=LENGTHS):
    def padded(b, h, q_idx, kv_idx):
        return kv_idx < array[b]

    return padded


PLAIN = {x.__name__: x for x in (causal, window, prefix, strided, by_head, by_batch, nothing)}


def dense(mask_mod, shape):
    """Pair by pair, as the definition has it."""
    return np.array([bool(mask_mod(*map(np.int64, at))) for at in np.ndindex(*shape)]).reshape(shape)

"""Dropout's random bits in NumPy, from the definition in metal/mfa_philox.h and from Salmon et al. (2011)."""

import numpy as np

WORD = np.uint64(0xFFFFFFFF)
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
ROUNDS = 10
COLUMNS, LANES = 128, 16  # columns that 16 calls, of 8 slices of 16 bits each, decide about


def philox4x32(counter, key):
    """Philox4x32-10: four words for the four of `counter`, arrays that broadcast, and the two of `key`."""
    x0, x1, x2, x3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    with np.errstate(over="ignore"):
        for _ in range(ROUNDS):
            first, second = MULTIPLIERS[0] * x0, MULTIPLIERS[1] * x2
            x0, x1, x2, x3 = (
                (second >> np.uint64(32)) ^ x1 ^ k0,
                second & WORD,
                (first >> np.uint64(32)) ^ x3 ^ k1,
                first & WORD,
            )
            k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return x0, x1, x2, x3


def low_and_high(number):
    """The two words of a 64-bit number."""
    return number & 0xFFFFFFFF, number >> 32


def dropout_bits(shape, *, seed, offset):
    """The 16 bits that decide about each weight: (B, H, Nq, Nkv), below 65536."""
    key = philox4x32((*low_and_high(offset), 0, 0), low_and_high(seed))[:2]
    batch, head, row, column = np.ogrid[tuple(slice(size) for size in shape)]
    calls = np.arange(LANES * -(-shape[3] // COLUMNS))
    words = np.stack(np.broadcast_arrays(*philox4x32((calls, row, head, batch), key)), axis=-1)
    halves = np.stack([words & np.uint64(0xFFFF), words >> np.uint64(16)], axis=-1)
    call, slot = LANES * (column // COLUMNS) + column % LANES, column % COLUMNS // LANES
    return halves[batch, head, row, call, slot // 2, slot % 2].astype(np.int64)


def dropout_threshold(dropout_p):
    """Bits below it drop a weight. Its probability is a float32, as everything in a descriptor."""
    return int(np.float32(dropout_p) * np.float32(65536) + np.float32(0.5))


def dropout_factors(shape, *, dropout_p, seed, offset):
    """What each weight is multiplied by: 0, or 1 / (1 - dropout_p)."""
    kept = dropout_bits(shape, seed=seed, offset=offset) >= dropout_threshold(dropout_p)
    return kept / (1 - np.float64(np.float32(dropout_p)))

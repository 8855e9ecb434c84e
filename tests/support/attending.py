"""One call, whose result threads and processes compare. Here, where a spawned process finds it by name."""

import numpy as np

import mfa


def operands():
    rng = np.random.default_rng(5)
    return tuple(rng.standard_normal((1, 300, 4, 32), dtype=np.float32) for _ in range(3))


def compute(num_threads):
    with mfa.Context(num_threads=num_threads) as context:
        return mfa.attention(*operands(), causal=True, context=context)

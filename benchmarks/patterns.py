"""Sparse attention as blocks of the scores that count."""

from collections.abc import Callable
from functools import cache

import numpy as np


def longformer(lines: int) -> np.ndarray:
    """A window of five blocks and a global one (Beltagy et al., 2020)."""
    return near(lines, 2) | either_below(lines, 1)


def bigbird(lines: int) -> np.ndarray:
    """A window of three blocks, two global ones and three at random (Zaheer et al., 2020)."""
    blocks = near(lines, 1) | either_below(lines, 2)
    generator = np.random.default_rng(0)
    for line in blocks:
        line[generator.choice(lines, min(3, lines), replace=False)] = True
    return blocks


def near(lines: int, reach: int) -> np.ndarray:
    numbers = np.arange(lines)
    return np.abs(numbers[:, None] - numbers) <= reach


def either_below(lines: int, bound: int) -> np.ndarray:
    numbers = np.arange(lines)
    return (numbers[:, None] < bound) | (numbers < bound)


PATTERNS: dict[str, Callable[[int], np.ndarray]] = {"longformer": longformer, "bigbird": bigbird}


@cache
def blocks_seen(pattern: str, lines: int) -> np.ndarray:
    """Bool (lines, lines): row of blocks, block of keys."""
    blocks = PATTERNS[pattern](lines)
    blocks.flags.writeable = False
    return blocks


def pairs_seen(pattern: str, block: int, rows: np.ndarray, length: int) -> np.ndarray:
    """Bool (rows, length): which keys these rows see."""
    lines = -(-length // block)
    return np.repeat(blocks_seen(pattern, lines)[rows // block], block, axis=1)[:, :length]


def block_lists(pattern: str, lines: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of blocks how many count, and which, in front of the others: int32 (1, 1, lines, ...)."""
    blocks = blocks_seen(pattern, lines)
    indices = np.argsort(~blocks, axis=1, kind="stable")
    return blocks.sum(axis=1, dtype=np.int32)[None, None], indices.astype(np.int32)[None, None]

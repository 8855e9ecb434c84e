"""Shapes as words: batch x heads x length x head_dim."""

import math
import re
from typing import NamedTuple

SIZE = "([0-9]{1,18})"
PATTERN = re.compile(rf"{SIZE}x{SIZE}(?::{SIZE})?x{SIZE}(?::{SIZE})?x{SIZE}(?::{SIZE})?", re.ASCII)
MOST_ELEMENTS = 2**60
EXPECTED = "BATCHxHEADSxLENGTHxHEAD_DIM, where 8:2 are the heads of queries, and of keys and values"


class Shape(NamedTuple):
    """Of query, key and value."""

    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    value_dim: int

    def __str__(self) -> str:
        pairs = (self[1:3], self[3:5], self[5:7])
        return "x".join([str(self.batch), *(f"{a}" if a == b else f"{a}:{b}" for a, b in pairs)])

    @property
    def query(self) -> tuple[int, int, int, int]:
        """Heads first, as the others."""
        return (self.batch, self.heads, self.queries, self.head_dim)

    @property
    def key(self) -> tuple[int, int, int, int]:
        return (self.batch, self.kv_heads, self.keys, self.head_dim)

    @property
    def value(self) -> tuple[int, int, int, int]:
        return (self.batch, self.kv_heads, self.keys, self.value_dim)


def parse(text: str) -> Shape:
    """The shape that ``1x8:2x1:1024x64`` stands for: what follows a colon is of keys and values.

    Raises
    ------
    ValueError
        It is none.
    """
    match = PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}, expected {EXPECTED}")
    batch, heads, kv_heads, queries, keys, head_dim, value_dim = match.groups()
    sizes = (batch, heads, kv_heads or heads, queries, keys or queries, head_dim, value_dim or head_dim)
    shape = Shape(*map(int, sizes))
    if max(map(math.prod, (shape.query, shape.key, shape.value))) > MOST_ELEMENTS:
        raise ValueError(f"{text!r}, expected at most {MOST_ELEMENTS:,} elements")
    return shape

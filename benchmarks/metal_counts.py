"""What attention does on the emulated Metal device, counted: the same in every run, on any machine."""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

import mfa

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32}
MASKS = {"full": {}, "causal": {"causal": True}, "window 64": {"window": mfa.sliding_window(64)}}
BLOCK = 128  # rows and keys
MATRIX_MULTIPLY = 8 * 8 * 8
FLOAT, DELTA = 4, 8  # bytes: logsumexp of a row; what backward_prepare leaves of it
KERNELS = {
    "forward": ("blocks", "forward"),
    "decode": ("decode", "combine"),
    "dQ": ("backward_query",),
    "dK and dV": ("backward_key",),
    "backward": ("backward_prepare", "blocks", "backward_query", "backward_key"),
}
PRODUCTS = {"forward": 2, "decode": 2, "dQ": 3, "dK and dV": 4, "backward": 7}  # of scores x head_dim


@dataclass(frozen=True)
class Case:
    dtype: str
    queries: int
    keys: int
    head_dim: int
    mask: str = "full"
    heads: int = 1
    kv_heads: int = 1

    def bytes_of(self, rows: int) -> int:
        return rows * self.head_dim * np.dtype(DTYPES[self.dtype]).itemsize


@dataclass(frozen=True)
class Counted:
    """What the kernels of one pass did, all together."""

    name: str
    case: Case
    counts: Counter
    visited_tile: int | None  # keys, for dK and dV rows, that a threadgroup takes at once
    least_device_bytes: int

    @property
    def least_multiplies(self) -> float:
        case = self.case
        return PRODUCTS[self.name] * case.heads * case.queries * case.keys * case.head_dim / MATRIX_MULTIPLY

    @property
    def multiplies_over_least(self) -> float:
        return self.counts["matrix_multiplies"] / self.least_multiplies

    @property
    def exponentials_per_score(self) -> float:
        return self.counts["exponentials"] / (self.case.heads * self.case.queries * self.case.keys)

    @property
    def device_bytes(self) -> int:
        return self.counts["device_bytes_loaded"] + self.counts["device_bytes_stored"]

    @property
    def device_bytes_over_least(self) -> float:
        return self.device_bytes / self.least_device_bytes

    @property
    def barriers(self) -> int:
        return self.counts["threadgroup_barriers"] + self.counts["simdgroup_barriers"]

    @property
    def barriers_per_tile(self) -> float | None:
        if self.visited_tile is None:
            return None
        tiles = self.counts["threadgroups"] * self.case.keys / self.visited_tile
        return self.barriers / tiles

    @property
    def threadgroup_bytes_per_multiply(self) -> float:
        moved = self.counts["threadgroup_bytes_loaded"] + self.counts["threadgroup_bytes_stored"]
        return moved / self.counts["matrix_multiplies"]


def dispatches_of(call: Callable[[], object]) -> tuple[object, list[dict]]:
    """What the call returns, and a dictionary of counters for each dispatch that it made."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counters"
        settings = {"METAL_EMULATOR_MODE": "checked", "METAL_EMULATOR_COUNTERS": str(path)}
        os.environ.update(settings)
        try:
            result = call()
        finally:
            for name in settings:
                del os.environ[name]
        return result, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def counts_of(kernels: tuple[str, ...], dispatches: list[dict]) -> Counter:
    total = Counter()
    for dispatch in dispatches:
        if dispatch["kernel"].removeprefix("attention_") in kernels:
            total.update({name: count for name, count in dispatch.items() if name != "kernel"})
    return total


def least_device_bytes(name: str, case: Case, threadgroups: int) -> int:
    """If a threadgroup reads each row that it owns or visits once, and every result is written once."""
    queries, keys = (case.bytes_of(rows) for rows in (case.queries, case.keys))
    if name == "forward":
        return threadgroups * 2 * keys + 2 * queries + FLOAT * case.queries
    if name == "decode":
        return 2 * case.kv_heads * keys + 2 * case.heads * queries
    if name == "dQ":
        return threadgroups * 2 * keys + 3 * queries + (FLOAT + DELTA) * case.queries
    if name == "dK and dV":
        return threadgroups * (2 * queries + (FLOAT + DELTA) * case.queries) + 4 * keys
    raise ValueError(f"no tile scheme is known for {name}")


def counted(name: str, case: Case, dispatches: list[dict], visited_tile: int | None) -> Counted:
    counts = counts_of(KERNELS[name], dispatches)
    return Counted(name, case, counts, visited_tile, least_device_bytes(name, case, counts["threadgroups"]))


def count_forward(case: Case) -> Counted:
    query, key, value, options = operands(case)
    _, dispatches = dispatches_of(lambda: mfa.attention(query, key, value, return_lse=True, **options))
    plan = mfa.plan(query, key, value, **options)
    return counted("forward", case, dispatches, plan.tile_keys)


def count_decode(case: Case) -> Counted:
    query, key, value, options = operands(case)
    _, dispatches = dispatches_of(lambda: mfa.attention(query, key, value, **options))
    return counted("decode", case, dispatches, None)


def count_backward(case: Case) -> list[Counted]:
    """dQ, dK and dV, and all that the backward call did."""
    query, key, value, options = operands(case)
    out, lse = mfa.attention(query, key, value, return_lse=True, **options)
    _, dispatches = dispatches_of(
        lambda: mfa.attention_backward(query, query, key, value, out, lse, **options)
    )
    kernel = mfa.plan(query, key, value, backward=True, **options).kernel
    visited_keys = int(re.search(r" query:\d+x(\d+)", kernel)[1])
    visited_rows = int(re.search(r" key:(\d+)x\d+", kernel)[1])
    parts = [
        counted("dQ", case, dispatches, visited_keys),
        counted("dK and dV", case, dispatches, visited_rows),
    ]
    prepare = 2 * case.bytes_of(case.queries) + DELTA * case.queries
    least = prepare + sum(part.least_device_bytes for part in parts)
    counts = counts_of(KERNELS["backward"], dispatches)
    return [*parts, Counted("backward", case, counts, None, least)]


def every_other_block(batch, head, row, key):
    return (row // BLOCK + key // BLOCK) % 2 == 0


def masks_of(case: Case) -> dict:
    """The keywords that hide something."""
    if case.mask != "blocks":
        return MASKS[case.mask]
    return {
        "block_mask": mfa.create_block_mask(
            every_other_block, None, None, case.queries, case.keys, BLOCK_SIZE=BLOCK
        )
    }


def operands(case: Case) -> tuple:
    """Query, key and value, whose values change no count, and the keywords of the call."""
    rng = np.random.default_rng(0)
    dtype = DTYPES[case.dtype]
    query = rng.standard_normal((1, case.queries, case.heads, case.head_dim)).astype(dtype)
    key, value = rng.standard_normal((2, 1, case.keys, case.kv_heads, case.head_dim)).astype(dtype)
    return query, key, value, {**masks_of(case), "context": mfa.Context("metal")}

"""Attention over quantised keys and values next to our own over floats, in turns.

Beside it is what the seed, the document that this project was created from, claims. It measured on Apple
GPUs; here is the CPU backend.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

import mfa
from benchmarks.cases import MIB
from benchmarks.compare_builds import Side, median_ratio
from benchmarks.operands import DTYPES

LAYOUT = "bhsd"
ROTATE_BYTES = 256 * MIB  # keys and values of successive calls are spread over as much memory
EFFORTS = {"full": (15, 0.05), "quick": (7, 0.02), "smoke": (2, 0.0)}  # rounds, and seconds of a turn


@dataclass(frozen=True)
class Storage:
    """How keys and values are stored and multiplied; floats have no precision of codes."""

    query_dtype: str
    precision: str | None = None
    granularity: str = "token"
    compute_mode: str = "exact"

    @property
    def name(self) -> str:
        if self.precision is None:
            return self.query_dtype
        return f"{self.precision} {self.granularity}, {self.compute_mode}, {self.query_dtype} queries"


@dataclass(frozen=True)
class Bound:
    """The least speedup over floats of a dtype."""

    storage: Storage
    dtype: str
    least: float


@dataclass(frozen=True)
class Problem:
    name: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    bounds: tuple[Bound, ...]
    claims: dict[str, str]  # of the seed, by precision
    backward: bool = False
    rotates: bool = False

    @property
    def title(self) -> str:
        heads, rows = f"{self.heads}:{self.kv_heads}", f"{self.queries}:{self.keys}"
        return f"{self.name} {self.batch}x{heads}x{rows}x{self.head_dim}"

    @property
    def storages(self) -> list[Storage]:
        floats = {Storage(bound.dtype): None for bound in self.bounds}
        return [*floats, *dict.fromkeys(bound.storage for bound in self.bounds)]


def problems() -> list[Problem]:
    int8_exact, int8 = Storage("bfloat16", "int8"), Storage("bfloat16", "int8", compute_mode="int8")
    int4_exact, int4 = Storage("bfloat16", "int4"), Storage("bfloat16", "int4", compute_mode="int8")
    trained, trained_half = int8, Storage("float16", "int8", compute_mode="int8")
    faster = {"int8": "2.5x float32", "int4": "3.0x float32"}
    return [
        Problem(
            "prefill", 1, 8, 8, 2048, 2048, 128,
            (Bound(int8, "float32", 2.5), Bound(int8, "bfloat16", 1.25), Bound(int8_exact, "bfloat16", 0.95)),
            faster,
        ),
        Problem(
            "decode", 1, 32, 8, 1, 8192, 128,
            (
                Bound(int8_exact, "float32", 2.5), Bound(int8, "float32", 3.2),
                Bound(int4_exact, "float32", 3.0), Bound(int4, "float32", 5.0),
            ),
            faster, rotates=True,
        ),
        Problem(
            "backward", 1, 8, 8, 4096, 4096, 64,
            (
                Bound(trained_half, "float16", 1.14),
                Bound(trained, "float16", 1.14), Bound(trained, "bfloat16", 0.9),
            ),
            {"int8": "1.14x to 1.48x float16"}, backward=True,
        ),
    ]  # fmt: skip


def tiny(problem: Problem) -> Problem:
    fields = vars(problem) | {"heads": 4, "kv_heads": 2, "queries": min(problem.queries, 24), "keys": 48}
    return Problem(**fields | {"rotates": False})


# ------------------------------------------------------------------ time


def normal(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32).astype(DTYPES[dtype])


def stored(values: np.ndarray, storage: Storage) -> Any:
    if storage.precision is None:
        return values.astype(DTYPES[storage.query_dtype])
    return mfa.quantize(values, storage.precision, storage.granularity, layout=LAYOUT)


def call(problem: Problem, storage: Storage, context: mfa.Context, seed: int = 0) -> Callable[[], None]:
    shape = (problem.batch, problem.kv_heads, problem.keys, problem.head_dim)
    rows = (problem.batch, problem.heads, problem.queries, problem.head_dim)
    query = normal(storage.query_dtype, *rows, seed=seed)
    key, value = (stored(normal("float32", *shape, seed=seed + n), storage) for n in (1, 2))
    keywords = {"layout": LAYOUT, "context": context}
    if storage.precision is not None:
        keywords["compute_mode"] = storage.compute_mode
    if not problem.backward:
        return lambda: mfa.attention(query, key, value, **keywords)
    out, lse = mfa.attention(query, key, value, return_lse=True, **keywords)
    dout = normal(storage.query_dtype, *rows, seed=seed + 3)
    return lambda: mfa.attention_backward(dout, query, key, value, out, lse, **keywords)


def stored_bytes(problem: Problem, storage: Storage) -> int:
    bits = {None: 8 * np.dtype(DTYPES[storage.query_dtype]).itemsize, "int8": 8, "int4": 4}[storage.precision]
    return 2 * problem.batch * problem.kv_heads * problem.keys * problem.head_dim * bits // 8


def sides(problem: Problem, context: mfa.Context) -> dict[Storage, Side]:
    found = {}
    for storage in problem.storages:
        copies = math.ceil(ROTATE_BYTES / stored_bytes(problem, storage)) if problem.rotates else 1
        found[storage] = Side([call(problem, storage, context, 10 * n) for n in range(copies)], [])
    return found


def time_all(timed: list[Side], rounds: int, turn_seconds: float) -> None:
    counts = [max(1, math.ceil(turn_seconds / side.time(len(side.calls))[0])) for side in timed]
    for index in range(rounds):
        for side, count in list(zip(timed, counts, strict=True))[:: 1 if index % 2 == 0 else -1]:
            side.take_turn(count)


def time_table(problem: Problem, size: str, threads: int) -> tuple[Table, list[dict]]:
    """Speedups over our own floats, and what is in the table."""
    if size == "smoke":
        problem = tiny(problem)
    with mfa.Context(backend="cpu", num_threads=threads) as context:
        timed = sides(problem, context)
        time_all(list(timed.values()), *EFFORTS[size])
    table = Table("keys and values", title=f"quantized {problem.title}", title_justify="left")
    for column in ("ms", "speedup over", "is", "target", "", "the seed's claim"):
        table.add_column(column, justify="right", no_wrap=True)
    records = []
    for storage, side in timed.items():
        bounds = [bound for bound in problem.bounds if bound.storage == storage]
        claim = problem.claims.get(storage.precision, "")
        milliseconds = f"{1e3 * statistics.median(side.seconds):.3g}"
        if not bounds:
            table.add_row(storage.name, milliseconds)
        for bound in bounds:
            speedup = 1 / median_ratio(timed[Storage(bound.dtype)].seconds, side.seconds)
            met = "met" if speedup >= bound.least else "not met"
            table.add_row(
                storage.name,
                milliseconds,
                bound.dtype,
                f"{speedup:.2f}x",
                f">= {bound.least:.2f}x",
                met,
                claim,
            )
            records.append(
                {"problem": problem.name, "storage": storage.name, "over": bound.dtype, "speedup": speedup}
                | {"target": bound.least, "claim": claim}
            )
            milliseconds = claim = ""
    return table, records

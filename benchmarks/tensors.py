"""Attention of PyTorch's tensors, mfa's next to torch's own `scaled_dot_product_attention`, in turns.

Where a problem is a model's, tensors lie as there: what a projection gives, (B, N, H, D), is taken as
(B, H, N, D), and results are merged to (B, N, H * D).
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from rich.table import Table

import mfa
from benchmarks.compare_builds import Side, median_ratio
from benchmarks.quantized import EFFORTS, ROTATE_BYTES, time_all

FUNCTIONS = {
    "torch": torch.nn.functional.scaled_dot_product_attention,
    "mfa": mfa.scaled_dot_product_attention,
}


@dataclass(frozen=True)
class Problem:
    name: str
    batch: int
    heads: int
    kv_heads: int
    queries: int
    keys: int
    head_dim: int
    dtype: str
    is_step: bool = False  # forward and backward
    rotates: bool = False  # keys and values of successive calls are spread over much memory
    least: float | None = None  # times as fast as torch

    @property
    def title(self) -> str:
        heads, rows = f"{self.heads}:{self.kv_heads}", f"{self.queries}:{self.keys}"
        return f"{self.name} {self.batch}x{heads}x{rows}x{self.head_dim} {self.dtype}"

    @property
    def cache_bytes(self) -> int:
        size = torch.finfo(getattr(torch, self.dtype)).bits // 8
        return 2 * self.batch * self.kv_heads * self.keys * self.head_dim * size


def problems() -> list[Problem]:
    found = []
    for dtype in ("float32", "bfloat16"):
        found += [
            Problem("prefill", 1, 32, 8, 1024, 1024, 128, dtype),
            Problem("decode", 1, 32, 8, 1, 8192, 128, dtype, rotates=True),
            Problem("training step", 1, 32, 8, 1024, 1024, 128, dtype, is_step=True, least=1.4),
            Problem("training step", 4, 12, 12, 256, 256, 64, dtype, is_step=True, least=1.4),
        ]
    return found


def tiny(problem: Problem) -> Problem:
    return replace(
        problem, batch=1, heads=4, kv_heads=2, queries=min(problem.queries, 24), keys=24, rotates=False
    )


# ------------------------------------------------------------------ time


def normal(problem: Problem, rows: int, heads: int, seed: int) -> torch.Tensor:
    """What a projection gives, seen by heads."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(problem.batch, rows, heads, problem.head_dim, generator=generator)
    return whole.to(getattr(torch, problem.dtype)).requires_grad_(problem.is_step).transpose(1, 2)


def call(problem: Problem, function: Callable, seed: int = 0) -> Callable[[], Any]:
    query = normal(problem, problem.queries, problem.heads, seed)
    key, value = (normal(problem, problem.keys, problem.kv_heads, seed + n) for n in (1, 2))
    keywords = {
        "is_causal": problem.queries == problem.keys,
        "enable_gqa": problem.heads != problem.kv_heads,
    }

    def forward() -> torch.Tensor:
        return function(query, key, value, **keywords).transpose(1, 2).flatten(2)

    if not problem.is_step:
        return forward
    dout = normal(problem, problem.queries, problem.heads, seed + 3).detach().transpose(1, 2).flatten(2)
    return lambda: torch.autograd.grad(forward(), (query, key, value), dout)


def difference(ours: Any, theirs: Any) -> float:
    """The largest between results, which are tensors or tuples of them."""
    if isinstance(ours, tuple):
        return max(map(difference, ours, theirs))
    return float((ours.detach().float() - theirs.detach().float()).abs().max())


def comparison(speedup: float) -> str:
    return f"{speedup:.2f}x" if speedup >= 1 else f"[red]{speedup:.2f}x, torch wins[/red]"


def outcome(is_met: bool) -> str:
    return "met" if is_met else "not met"


def time_table(size: str, threads: int) -> tuple[Table, list[dict]]:
    table = Table("tensors", title="torch", title_justify="left")
    for column in ("torch ms", "mfa ms", "mfa is", "target", "", "difference"):
        table.add_column(column, justify="right", no_wrap=True)
    torch.set_num_threads(threads)
    records = []
    for problem in problems():
        problem = tiny(problem) if size == "smoke" else problem
        copies = math.ceil(ROTATE_BYTES / problem.cache_bytes) if problem.rotates else 1
        with torch.set_grad_enabled(problem.is_step):
            sides = {
                name: Side([call(problem, function, 10 * n) for n in range(copies)], [])
                for name, function in FUNCTIONS.items()
            }
            apart = difference(sides["mfa"].calls[0](), sides["torch"].calls[0]())
            time_all(list(sides.values()), *EFFORTS[size])
        speedup = 1 / median_ratio(sides["torch"].seconds, sides["mfa"].seconds)
        target = ("", "")
        if problem.least is not None:
            target = (f">= {problem.least:.2f}x", outcome(speedup >= problem.least))
        milliseconds = {name: 1e3 * statistics.median(side.seconds) for name, side in sides.items()}
        shown = [f"{milliseconds[name]:.3g}" for name in FUNCTIONS]
        table.add_row(problem.title, *shown, comparison(speedup), *target, f"{apart:.1e}")
        records.append(
            {"problem": problem.title, "speedup": speedup, "target": problem.least, "difference": apart}
        )
    return table, records


# -------------------------------------------------------------- overhead

OVERHEAD_SHAPE = (1, 1, 16, 64)
# What is called, and the most times of torch's that it may take.
OVERHEADS = {"without grad": 1.3, "forward, with grad": 2.0, "forward and backward": 2.0}


def small_call(kind: str, function: Callable) -> Callable[[], Any]:
    query, key, value, dout = torch.randn(4, *OVERHEAD_SHAPE).unbind()
    if kind == "without grad":
        return partial(function, query, key, value)
    leaves = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    if kind == "forward, with grad":
        return partial(function, *leaves)
    return lambda: torch.autograd.grad(function(*leaves), leaves, dout)


def overhead_table(size: str, threads: int) -> tuple[Table, list[dict]]:
    """On one thread, of the processor's time: a call is too short for threads."""
    del threads
    shape = "x".join(map(str, OVERHEAD_SHAPE))
    table = Table("a call", title=f"torch {shape}, one thread", title_justify="left")
    for column in ("torch us", "mfa us", "mfa takes", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    torch.set_num_threads(1)
    records = []
    for kind, most in OVERHEADS.items():
        with torch.set_grad_enabled(kind != "without grad"):
            sides = {name: Side([small_call(kind, function)], []) for name, function in FUNCTIONS.items()}
            time_all(list(sides.values()), *EFFORTS[size])
        ratio = median_ratio(sides["torch"].cpu_seconds, sides["mfa"].cpu_seconds)
        shown = [f"{1e6 * statistics.median(side.cpu_seconds):.1f}" for side in sides.values()]
        table.add_row(kind, *shown, f"{ratio:.2f}x", f"<= {most:.2f}x", outcome(ratio <= most))
        records.append({"call": kind, "ratio": ratio, "target": most})
    return table, records

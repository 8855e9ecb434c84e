"""Peak memory of a forward and a backward pass over PyTorch's tensors, each in a fresh process."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import torch
from rich.table import Table

from benchmarks.cases import MIB
from benchmarks.memory import peak_growth, refuse_without_proc
from benchmarks.tensors import FUNCTIONS, Problem, call, outcome

SHAPE = (1, 8, 4096, 64)
TINY_SHAPE = (1, 2, 40, 16)
MOST = 0.75  # of torch's
CAPTION = """\
Bytes that both passes add to the peak resident memory. Results are the
output, the logsumexp and the gradients, which whoever computes them has."""


def problem_of(shape: tuple[int, ...], dtype: str) -> Problem:
    batch, heads, rows, head_dim = shape
    return Problem("memory", batch, heads, heads, rows, rows, head_dim, dtype, is_step=True)


def plain_call(problem: Problem, function):
    """Over tensors (B, H, N, D) that are contiguous, as callers of attention alone have them."""
    shape = (problem.batch, problem.heads, problem.queries, problem.head_dim)
    dtype = getattr(torch, problem.dtype)
    *leaves, dout = (torch.ones(shape, dtype=dtype) for _ in range(4))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    return lambda: torch.autograd.grad(function(*leaves), leaves, dout)


LAYOUTS = {"contiguous": plain_call, "a model's": call}


def growth(name: str, layout: str, dtype: str, shape: tuple[int, ...], threads: int) -> int:
    torch.set_num_threads(threads)
    make = partial(LAYOUTS[layout], function=FUNCTIONS[name])
    make(problem_of(TINY_SHAPE, dtype))()  # starts threads, loads code
    return peak_growth(make(problem_of(shape, dtype)))


def result_bytes(shape: tuple[int, ...], dtype: str) -> int:
    batch, heads, rows, head_dim = shape
    return batch * heads * rows * (4 * head_dim * torch.finfo(getattr(torch, dtype)).bits // 8 + 4)


def memory_table(size: str, threads: int) -> tuple[Table, list[dict]]:
    refuse_without_proc()
    shape = TINY_SHAPE if size == "smoke" else SHAPE
    table = Table("tensors", title=f"torch memory {shape}", title_justify="left", caption_justify="left")
    for column in ("results MiB", "torch MiB", "mfa MiB", "mfa takes", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    records = []
    for dtype in ("float32", "bfloat16"):
        for layout in LAYOUTS:
            found = {}
            for name in FUNCTIONS:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                    found[name] = fresh.submit(growth, name, layout, dtype, shape, threads).result()
            ratio = found["mfa"] / max(found["torch"], 1)
            results = result_bytes(shape, dtype)
            shown = [f"{each / MIB:.1f}" for each in (results, *found.values())]
            table.add_row(
                f"{dtype}, {layout}", *shown, f"{ratio:.3f}x", f"<= {MOST:.2f}x", outcome(ratio <= MOST)
            )
            records.append(
                {"dtype": dtype, "layout": layout, "ratio": ratio, "target": MOST, "result_bytes": results}
                | {f"{name}_bytes": each for name, each in found.items()}
            )
    table.caption = CAPTION
    return table, records

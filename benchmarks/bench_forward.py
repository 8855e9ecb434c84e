"""Times the forward pass of mfa next to PyTorch's SDPA and NumPy, in turn on the same operands.

Medians over rounds in which every contender runs once, so that a busy machine slows all of them alike. Errors
are relative Frobenius norms against float64, over a sample of query rows.
"""

import argparse
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Callable

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import mfa

SHAPES = (
    (8, 16, 128, 64),
    (64, 12, 77, 64),
    (1, 8, 1024, 64),
    (1, 8, 1024, 40),
    (1, 8, 2048, 128),
    (1, 4, 4096, 64),
)
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
SAMPLED_ROWS = 64

Run = Callable[[], object]
# From (B, H, N, D) operands and a number of threads, a function that computes the output.
Contender = Callable[[np.ndarray, np.ndarray, np.ndarray, int], Run]


def mfa_contender(query: np.ndarray, key: np.ndarray, value: np.ndarray, threads: int) -> Run:
    context = mfa.Context(num_threads=threads)
    return lambda: mfa.attention(query, key, value, layout="bhsd", context=context)


def torch_contender(query: np.ndarray, key: np.ndarray, value: np.ndarray, threads: int) -> Run:
    import torch

    if threads:
        torch.set_num_threads(threads)
    dtype = getattr(torch, query.dtype.name)
    operands = [torch.from_numpy(operand.astype(np.float32)).to(dtype) for operand in (query, key, value)]
    return lambda: torch.nn.functional.scaled_dot_product_attention(*operands)


def numpy_contender(query: np.ndarray, key: np.ndarray, value: np.ndarray, threads: int) -> Run:
    del threads  # NumPy's matrix product decides for itself
    operands = [operand.astype(np.float32) for operand in (query, key, value)]
    return lambda: textbook(*operands)


def textbook(query: np.ndarray, key: np.ndarray, value: np.ndarray) -> np.ndarray:
    scores = query @ key.swapaxes(-1, -2)
    scores *= query.dtype.type(1 / math.sqrt(query.shape[-1]))
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores @ value


def contenders(dtype: str) -> dict[str, Contender]:
    found: dict[str, Contender] = {"mfa": mfa_contender}
    if importlib.util.find_spec("torch"):
        found["torch"] = torch_contender
    if dtype == "float32":  # NumPy has no fast 16-bit product
        found["numpy"] = numpy_contender
    return found


def to_float64(out: object) -> np.ndarray:
    return np.asarray(out.float() if hasattr(out, "float") else out).astype(np.float64)


def relative_error(out: object, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> float:
    rows = np.linspace(0, query.shape[2] - 1, min(SAMPLED_ROWS, query.shape[2]), dtype=np.int64)
    query, key, value = (operand.astype(np.float64) for operand in (query[:, :, rows], key, value))
    expected = textbook(query, key, value)
    return float(np.linalg.norm(to_float64(out)[:, :, rows] - expected) / np.linalg.norm(expected))


def measure(
    shape: tuple[int, ...], dtype: str, rounds: int, threads: int, on_round: Callable[[], object]
) -> list[tuple[str, float, float]]:
    """(contender, median seconds, relative error) of each."""
    generator = np.random.default_rng(0)
    operands = [generator.standard_normal(shape, dtype=np.float32).astype(DTYPES[dtype]) for _ in range(3)]
    runs = {name: make(*operands, threads) for name, make in contenders(dtype).items()}
    errors = {name: relative_error(run(), *operands) for name, run in runs.items()}  # this also warms up
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
        on_round()
    return [(name, statistics.median(seconds[name]), errors[name]) for name in runs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shape", type=int, nargs=4, metavar=("B", "H", "N", "D"), help="one shape instead of all"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="one dtype instead of all")
    parser.add_argument("--rounds", type=int, default=7, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as each takes by itself")
    arguments = parser.parse_args()
    shapes = [tuple(arguments.shape)] if arguments.shape else SHAPES
    dtypes = [arguments.dtype] if arguments.dtype else list(DTYPES)

    with mfa.Context(num_threads=arguments.threads) as context:
        machine = context.describe()
    title = f"mfa on {machine.device}, {machine.isa}, {machine.num_threads} threads; medians"
    table = Table("B x H x N x D", "dtype", "contender", title=title)
    for column in ("ms", "GFLOP/s", "time / mfa", "error"):
        table.add_column(column, justify="right")
    console = Console()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("timing", total=len(shapes) * len(dtypes) * arguments.rounds)
        for shape in shapes:
            for dtype in dtypes:
                results = measure(
                    shape, dtype, arguments.rounds, arguments.threads, lambda: progress.advance(task)
                )
                batch, heads, length, dim = shape
                flop = 4 * batch * heads * length * length * dim
                for name, seconds, error in results:
                    table.add_row(
                        "x".join(map(str, shape)),
                        dtype,
                        name,
                        f"{seconds * 1e3:.2f}",
                        f"{flop / seconds / 1e9:.0f}",
                        f"{seconds / results[0][1]:.2f}",
                        f"{error:.1e}",
                    )
                table.add_section()
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

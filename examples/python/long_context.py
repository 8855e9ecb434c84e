"""One attention call over a long context in bfloat16: time, speed, and memory beside inputs and output."""

import argparse
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

import mfa

HEADS = 8
HEAD_DIM = 64
WARM_UP_TOKENS = 2048
MIB = 2**20


def memory() -> tuple[int, int]:
    """Bytes of memory that this process holds now, and the most that it ever held."""
    if sys.platform == "linux":
        # Not getrusage: on Linux its maximum survives exec and so includes the parent process.
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return tuple(int(status[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    import resource

    # Only the maximum can be had here, and nothing was freed that would part the two.
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most, most


def random_operand(generator: np.random.Generator, tokens: int) -> np.ndarray:
    """(1, tokens, heads, head_dim), filled in pieces so that making it does not raise the peak."""
    operand = np.empty((1, tokens, HEADS, HEAD_DIM), dtype=ml_dtypes.bfloat16)
    for start in range(0, tokens, 256):
        piece = operand[:, start : start + 256]
        piece[...] = generator.standard_normal(piece.shape, dtype=np.float32)
    return operand


def flop(tokens: int) -> int:
    """Two matrix products, a multiplication and an addition each."""
    return 4 * HEADS * tokens * tokens * HEAD_DIM


def timed(query: np.ndarray, key: np.ndarray, value: np.ndarray, out: np.ndarray) -> float:
    start = time.perf_counter()
    mfa.attention(query, key, value, out=out)
    return time.perf_counter() - start


def timed_with_progress(console: Console, expected_seconds: float, *operands: np.ndarray) -> float:
    """One call cannot report how far it is, so the bar shows time against what short ones foretold."""
    seconds: list[float] = []
    worker = threading.Thread(target=lambda: seconds.append(timed(*operands)))
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("attention", total=expected_seconds)
        start = time.perf_counter()
        worker.start()
        while worker.is_alive():
            worker.join(0.1)
            progress.update(task, completed=min(time.perf_counter() - start, 0.99 * expected_seconds))
    if not seconds:
        raise SystemExit("the attention call failed; its error is above")
    return seconds[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32768, help="(default: %(default)s)")
    tokens = parser.parse_args().tokens
    if tokens < 1:
        parser.error(f"--tokens is {tokens}, expected at least 1")
    console = Console()
    generator = np.random.default_rng(0)
    query, key, value = (random_operand(generator, tokens) for _ in range(3))
    out = np.empty_like(query)
    out.fill(0)  # touches every page, so that the call is not charged for them
    before, _ = memory()
    short = slice(0, min(tokens, WARM_UP_TOKENS))
    warm_up = [operand[:, short] for operand in (query, key, value, out)]
    timed(*warm_up)
    expected_seconds = timed(*warm_up) * (tokens / warm_up[0].shape[1]) ** 2
    seconds = timed_with_progress(console, expected_seconds, query, key, value, out)
    extra = memory()[1] - before
    matrix = 2 * HEADS * tokens * tokens
    console.print(
        f"Long context: {tokens:,} tokens, {HEADS} heads, head_dim {HEAD_DIM}, bfloat16, full attention"
    )
    console.print(f"Time: {seconds:.2f} s, {flop(tokens) / seconds / 1e9:.0f} GFLOP/s")
    console.print(f"Peak memory beside inputs and output: {extra / MIB:.1f} MiB")
    console.print(f"The N x N matrices of all heads would need {matrix / MIB:,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

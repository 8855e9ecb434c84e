"""PyTorch's scaled_dot_product_attention beside mfa's: the same results and gradients, and the time of each.

Two ways to change over: call mfa's function, which has the same signature; or change no line of a model and
let mfa run what it calls.
"""

import argparse
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

import mfa.torch

HEADS, HEAD_DIM = 8, 64
CASES = {  # name: (times as many tokens, keywords)
    "full": (1, {}),
    "causal": (1, {"is_causal": True}),
    "causal, longer": (4, {"is_causal": True}),
}


def with_gradients(attention, operands, keywords):
    """The result and its gradients, and the seconds that they took."""
    start = time.perf_counter()
    result = attention(*operands, **keywords)
    gradients = torch.autograd.grad(result, operands, torch.ones_like(result))
    return (result, *gradients), time.perf_counter() - start


def difference(tensors, expected) -> float:
    return max(
        (one.double() - other).abs().max().item() for one, other in zip(tensors, expected, strict=True)
    )


def compared(tokens, keywords, dtype, repeats):
    """Milliseconds and largest errors of both, as they take turns."""
    torch.manual_seed(0)
    operands = [torch.randn(1, HEADS, tokens, HEAD_DIM).to(dtype).requires_grad_() for _ in range(3)]
    wide = [tensor.detach().double().requires_grad_() for tensor in operands]
    exact, _ = with_gradients(F.scaled_dot_product_attention, wide, keywords)
    functions = (F.scaled_dot_product_attention, mfa.torch.scaled_dot_product_attention)
    errors = [difference(with_gradients(function, operands, keywords)[0], exact) for function in functions]
    seconds = [[], []]
    for _ in range(repeats):
        for taken, function in zip(seconds, functions, strict=True):
            taken.append(with_gradients(function, operands, keywords)[1])
    return [statistics.median(taken) * 1e3 for taken in seconds], errors


def print_comparison(console: Console, options: argparse.Namespace) -> bool:
    """Whether mfa is as accurate as PyTorch."""
    table = Table("mask", "tokens", "dtype", "PyTorch", "mfa", "PyTorch's error", "mfa's")
    accurate = True
    for name, (times_as_many, keywords) in CASES.items():
        for dtype in (torch.float32, torch.bfloat16):
            tokens = options.tokens * times_as_many
            milliseconds, errors = compared(tokens, keywords, dtype, options.repeats)
            accurate &= errors[1] <= max(2 * errors[0], 1e-6)
            times = [f"{taken:.1f} ms" for taken in milliseconds]
            kind = str(dtype).removeprefix("torch.")
            table.add_row(name, f"{tokens:,}", kind, *times, *(f"{error:.1e}" for error in errors))
    console.print(f"Forward and backward, {HEADS} heads, head_dim {HEAD_DIM}:")
    console.print(table)
    return accurate


def print_replacement(console: Console) -> bool:
    """A model of PyTorch's own, of which no line is changed."""
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    tokens = torch.randn(2, 100, 64)
    expected = model(tokens)
    with mfa.torch.replace_sdpa() as replaced:
        result = model(tokens)
    same = torch.allclose(result, expected, atol=1e-5)
    counts = replaced.counts
    console.print(
        f"A layer of PyTorch's under replace_sdpa: {counts.mfa} call by mfa, {counts.torch} by PyTorch"
    )
    return same and counts.mfa == 1 and counts.torch == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"tokens": 1024, "repeats": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    options = parser.parse_args()
    for name, value in vars(options).items():
        if value < 1:
            parser.error(f"--{name} is {value}, expected at least 1")
    console = Console()
    right = print_comparison(console, options)
    right &= print_replacement(console)
    if not right:
        raise SystemExit("mfa's results are not those of PyTorch")
    return 0


if __name__ == "__main__":
    sys.exit(main())

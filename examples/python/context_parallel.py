"""Attention and its gradients over tokens of which each process has a part, and what memory that takes."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from long_context import MIB, memory

from mfa.torch.distributed import own_rows, ring_attention

HEADS = 4
HEAD_DIM = 64
COMPARED_ROWS = 64
AGREEMENT = 1e-4


def operand(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """(1, heads, rows, head_dim), each row the same in whatever process it is."""
    result = torch.empty(1, HEADS, len(rows), HEAD_DIM)
    for index, row in enumerate(rows.tolist()):
        result[0, :, index] = torch.randn(
            HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(4 * row + seed)
        )
    return result


def step(rows: torch.Tensor) -> list[torch.Tensor]:
    """The result and all gradients of causal attention; of the whole sequence each process has `rows`."""
    query, key, value = (operand(rows, seed).requires_grad_() for seed in range(3))
    out = ring_attention(query, key, value, is_causal=True, load_balanced=True)
    out.backward(operand(rows, 3))
    return [out.detach(), query.grad, key.grad, value.grad]


def work(rank: int, processes: int, tokens: int, folder: Path) -> None:
    """What each process does, and leaves in `folder`: its memory, and rows that all runs have computed."""
    # So that the processes do not take the processors from each other.
    os.environ["MFA_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    torch.set_num_threads(1)
    store = f"file://{folder / f'store of {processes}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    step(own_rows(4 * processes, load_balanced=True))  # loads what is loaded when it is first used
    before, _ = memory()
    rows = own_rows(tokens, load_balanced=True)
    results = step(rows)
    extra = memory()[1] - before
    compared = torch.isin(rows, torch.arange(0, tokens, max(1, tokens // COMPARED_ROWS)))
    left = {"memory": extra, "rows": rows[compared], "results": [x[:, :, compared] for x in results]}
    torch.save(left, folder / f"{rank} of {processes}.pt")
    dist.barrier()
    dist.destroy_process_group()


def run(processes: int, tokens: int, folder: Path) -> tuple[int, list[torch.Tensor]]:
    """The most memory that one of so many processes took, and the compared rows in order."""
    torch.multiprocessing.spawn(work, (processes, tokens, folder), nprocs=processes)
    left = [torch.load(folder / f"{rank} of {processes}.pt") for rank in range(processes)]
    order = torch.cat([one["rows"] for one in left]).argsort()
    parts = zip(*(one["results"] for one in left), strict=True)
    return max(one["memory"] for one in left), [torch.cat(part, 2)[:, :, order] for part in parts]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=16384, help="(default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, nargs="+", default=[1, 2, 4], help="how many to compare (default: 1 2 4)"
    )
    arguments = parser.parse_args()
    tokens = arguments.tokens
    if min(arguments.processes) < 1:
        parser.error(f"--processes is {min(arguments.processes)}, expected at least 1")
    for processes in arguments.processes:
        if tokens < 1 or tokens % (2 * processes):
            parser.error(f"--tokens is {tokens}, expected a multiple of {2 * processes}")
    print(f"Causal attention and its gradients: {HEADS} heads, head_dim {HEAD_DIM}, float32")
    print("processes     tokens  tokens of each  memory of each")
    difference = 0.0
    with tempfile.TemporaryDirectory() as folder:
        first = None
        for processes in arguments.processes:
            extra, results = run(processes, tokens, Path(folder))
            first = first or results
            print(f"{processes:9} {tokens:10,} {tokens // processes:15,} {extra / MIB:11.1f} MiB")
            differences = [(x - y).abs().max().item() for x, y in zip(results, first, strict=True)]
            difference = max(difference, *differences)
    print(f"Largest difference between them: {difference:.1e}")
    return 0 if difference < AGREEMENT else 1


if __name__ == "__main__":
    sys.exit(main())

"""Train a small character model twice from one seed, with PyTorch's attention and with mfa's, step by step.

The text is the source code of Python's own standard library. Both runs see the same batches; their losses
must agree. Time is of the whole step, and the two take turns, so that a busy machine slows both alike. Memory
is the peak of a process of its own for each.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from long_context import memory
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import mfa.torch

ATTENTIONS = {
    "torch": F.scaled_dot_product_attention,
    "mfa": mfa.torch.scaled_dot_product_attention,
}
MIB = 2**20
TEXT_LENGTH = 1 << 20
AGREEMENT = 0.02  # between losses of about 2 to 5, which roundings drive apart as training goes on


class Block(nn.Module):
    def __init__(self, width: int, heads: int, attention) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = self.query_key_value(self.before_attention(hidden)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))  # heads first, nothing copied
        mixed = self.attention(query, key, value, is_causal=True)
        hidden = hidden + self.merge(mixed.transpose(1, 2).flatten(2))
        return hidden + self.mlp(self.before_mlp(hidden))


class CharacterModel(nn.Module):
    def __init__(self, characters: int, options: argparse.Namespace, attention) -> None:
        super().__init__()
        self.character = nn.Embedding(characters, options.width)
        self.position = nn.Embedding(options.context, options.width)
        blocks = (Block(options.width, options.heads, attention) for _ in range(options.layers))
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(options.width))
        self.scores = nn.Linear(options.width, characters)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(ids.shape[1])
        return self.scores(self.blocks(self.character(ids) + self.position(positions)))


class Run:
    """One model in training, with its losses and the seconds that each step took."""

    def __init__(self, name: str, characters: int, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.model = CharacterModel(characters, options, ATTENTIONS[name])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.dtype = getattr(torch, options.dtype)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, ids: torch.Tensor) -> None:
        start = time.perf_counter()
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            scores = self.model(ids[:, :-1])
            loss = F.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - start)
        self.losses.append(loss.item())


def text_of_this_python() -> str:
    text = ""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_text(encoding="utf-8", errors="replace")
        if len(text) > TEXT_LENGTH:
            break
    return text[:TEXT_LENGTH]


def encoded(text: str) -> tuple[torch.Tensor, int]:
    characters = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([characters[character] for character in text]), len(characters)


def batches(ids: torch.Tensor, options: argparse.Namespace):
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.steps):
        starts = torch.randint(len(ids) - options.context - 1, (options.batch,), generator=generator)
        yield torch.stack([ids[start : start + options.context + 1] for start in starts])


def peak_memory(name: str) -> float:
    """MiB that training takes beside all that is there before its first step, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(ids: torch.Tensor, characters: int, options: argparse.Namespace) -> None:
    run = Run(options.memory_of, characters, options)
    options.steps = 2  # the optimizer's state is there from the first on
    before, _ = memory()
    for batch in batches(ids, options):
        run.step(batch)
    print((memory()[1] - before) / MIB)


def plot(losses: list[float], console: Console, height: int = 12, width: int = 72) -> None:
    """Losses over steps, a column for each few."""
    columns = min(width, len(losses))
    edges = [len(losses) * i // columns for i in range(columns + 1)]
    means = [statistics.fmean(losses[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    rows = [round((mean - low) / ((high - low) or 1) * (height - 1)) for mean in means]
    for level in range(height - 1, -1, -1):
        label = f"{low + (high - low) * level / (height - 1):6.2f} |"
        console.print(label + "".join("*" if row == level else " " for row in rows), highlight=False)
    console.print(f"{'loss':>6} +{'-' * columns}\n{'':8}steps 1 to {len(losses)}", highlight=False)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"steps": 60, "context": 512, "batch": 2, "width": 256, "heads": 4, "layers": 2, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(default: %(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of autocast")
    parser.add_argument("--memory-of", choices=ATTENTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in sizes:
        if name != "seed" and getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, expected at least 1")
    if options.width % options.heads:
        parser.error(f"--width is {options.width}, expected a multiple of --heads, {options.heads}")
    return options


def main() -> int:
    options = parsed()
    ids, characters = encoded(text_of_this_python())
    if options.memory_of:
        print_memory(ids, characters, options)
        return 0
    console = Console()
    runs = {name: Run(name, characters, options) for name in ATTENTIONS}
    turns = list(runs.values())
    for batch in track(batches(ids, options), "Training", options.steps, console=console, transient=True):
        for run in turns:
            run.step(batch)
        turns.reverse()
    plot(runs["mfa"].losses, console)
    table = Table("attention", "last loss", "time of a step", "peak memory")
    for name, run in runs.items():
        # The first step makes what later ones have.
        seconds = statistics.median(run.seconds[1:] or run.seconds)
        table.add_row(
            name, f"{run.losses[-1]:.4f}", f"{seconds * 1e3:.0f} ms", f"{peak_memory(name):.0f} MiB"
        )
    console.print(table)
    pairs = zip(runs["torch"].losses, runs["mfa"].losses, strict=True)
    difference = max(abs(one - other) for one, other in pairs)
    console.print(f"Largest difference of two losses: {difference:.2g}", highlight=False)
    if not difference < AGREEMENT:
        raise SystemExit(f"the losses differ by {difference:.2g}, expected less than {AGREEMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Answers queries over a small corpus with a sentence-embedding model whose attention runs through mfa.

Prints the ranking, how far the embeddings are from a float64 run of the same model with plain NumPy
attention, and the share of time spent in attention. Then runs long_context.py, where the length matters.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import minilm
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import mfa

HERE = Path(__file__).resolve().parent
QUERIES = (
    "Why does bread rise?",
    "How do computers free memory they do not need any more?",
    "animals that travel very far",
    "heating a home efficiently",
)
TOP = 3


def attention_through_mfa(
    query: np.ndarray, key: np.ndarray, value: np.ndarray, visible: np.ndarray
) -> np.ndarray:
    return mfa.attention(query, key, value, mask=visible)


def print_ranking(
    console: Console,
    queries: list[str],
    corpus: list[str],
    query_embeddings: np.ndarray,
    passages: np.ndarray,
) -> None:
    similarity = query_embeddings @ passages.T
    for query, row in zip(queries, similarity, strict=True):
        table = Table(title=query, title_justify="left", title_style="bold", show_header=False, box=None)
        for index in np.argsort(-row, kind="stable")[:TOP]:
            table.add_row(f"{row[index]:.3f}", corpus[index])
        console.print(table)
        console.print()


def search(console: Console, queries: list[str]) -> None:
    corpus = (HERE / "corpus.txt").read_text(encoding="ascii").splitlines()
    ids, real = minilm.tokenize(minilm.load_tokenizer(), corpus + queries)
    model = minilm.MiniLM(attention_through_mfa)
    plain = minilm.MiniLM(minilm.numpy_attention)
    reference = minilm.MiniLM(minilm.numpy_attention, np.float64)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("float32, attention through mfa", total=model.num_layers)
        start = time.perf_counter()
        embeddings = model.embed(ids, real, lambda: progress.advance(task))
        seconds = time.perf_counter() - start
        task = progress.add_task("float32, attention in NumPy", total=plain.num_layers)
        plain.embed(ids, real, lambda: progress.advance(task))
        task = progress.add_task("float64, attention in NumPy", total=reference.num_layers)
        expected = reference.embed(ids, real, lambda: progress.advance(task))
    print_ranking(console, queries, corpus, embeddings[len(corpus) :], embeddings[: len(corpus)])
    shape = f"{model.num_layers} layers, {model.num_heads} heads"
    console.print(f"{len(ids)} texts padded to {ids.shape[1]} tokens, {shape}")
    console.print(f"Largest difference from the float64 run: {np.abs(embeddings - expected).max():.1e}")
    console.print(
        f"Time: {seconds:.3f} s, of which {model.attention_seconds:.3f} s "
        f"({model.attention_seconds / seconds:.0%}) in attention"
    )
    console.print(f"In NumPy, attention of the same model took {plain.attention_seconds:.3f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--query", action="append", metavar="TEXT", help="a query; may be repeated")
    parser.add_argument("--skip-long-context", action="store_true", help="leave out the long-context part")
    parser.add_argument(
        "--tokens", type=int, default=32768, help="of the long context (default: %(default)s)"
    )
    arguments = parser.parse_args()
    console = Console()
    search(console, arguments.query or list(QUERIES))
    if arguments.skip_long_context:
        return 0
    console.print()
    # A process of its own, since peak memory is known per process.
    return subprocess.call([sys.executable, str(HERE / "long_context.py"), "--tokens", str(arguments.tokens)])


if __name__ == "__main__":
    sys.exit(main())

"""Counts what the Metal kernels do on the emulated device, next to the least that is needed and to MLX."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

import mfa
from benchmarks.metal_counts import Case, Counted, count_backward, count_decode, count_forward

LENGTHS, HEAD_DIMS = (256, 1024), (64, 128)
MASKED_LENGTH = 1024
TABLE_WIDTH = 110  # columns where the output is no terminal
COUNTERS = ("multiplies", "exponentials", "device bytes", "barriers")

# MLX's steel_attention on a prototype of the emulator: float16, one head of 256 queries and keys.
MLX_LENGTH = 256
MLX = {
    (64, "full"): (16384, 73728, 557056 + 32768, 272 + 4096),
    (64, "causal"): (9216, 41472, 327680 + 32768, 160 + 2304),
    (128, "full"): (32768, 81920, 1114112 + 65536, 528 + 49152),
    (128, "causal"): (18432, 46080, 655360 + 65536, 304 + 27648),
}


def count_passes(case: Case) -> list[Counted]:
    return [count_forward(case), *count_backward(case)]


def count_full(dtypes: tuple[str, ...], lengths: tuple[int, ...]) -> list[Counted]:
    shapes = itertools.product(dtypes, lengths, HEAD_DIMS)
    return [
        counted
        for dtype, length, head_dim in shapes
        for counted in count_passes(Case(dtype, length, length, head_dim))
    ]


def count_masked(full: list[Counted]) -> Iterator[tuple[Counted, Counted]]:
    """Passes under each mask, each with the one that sees all."""
    unmasked = {(each.name, each.case): each for each in full}
    for mask, head_dim in itertools.product(("causal", "window 64", "blocks"), HEAD_DIMS):
        case = Case("float16", MASKED_LENGTH, MASKED_LENGTH, head_dim)
        for each in count_passes(replace(case, mask=mask)):
            yield each, unmasked[each.name, case]


def full_rows(full: list[Counted]) -> list[dict]:
    return [
        {
            "dtype": each.case.dtype,
            "N": each.case.queries,
            "D": each.case.head_dim,
            "pass": each.name,
            "multiplies / least": each.multiplies_over_least,
            "exponentials / score": each.exponentials_per_score,
            "device bytes / least": each.device_bytes_over_least,
            "barriers / tile": each.barriers_per_tile,
            "threadgroup bytes / multiply": each.threadgroup_bytes_per_multiply,
        }
        for each in full
    ]


def masked_rows(pairs: Iterable[tuple[Counted, Counted]]) -> list[dict]:
    return [
        {
            "mask": masked.case.mask,
            "D": masked.case.head_dim,
            "pass": masked.name,
            "multiplies": masked.counts["matrix_multiplies"] / full.counts["matrix_multiplies"],
            "exponentials": masked.counts["exponentials"] / full.counts["exponentials"],
            "device bytes": masked.device_bytes / full.device_bytes,
            "barriers": masked.barriers / full.barriers,
        }
        for masked, full in pairs
    ]


def mlx_rows() -> list[dict]:
    rows = []
    for (head_dim, mask), theirs in MLX.items():
        ours = count_forward(Case("float16", MLX_LENGTH, MLX_LENGTH, head_dim, mask))
        counts = (
            ours.counts["matrix_multiplies"],
            ours.counts["exponentials"],
            ours.device_bytes,
            ours.barriers,
        )
        for kernel, numbers in ("mfa", counts), ("MLX", theirs):
            named = dict(zip(COUNTERS, numbers, strict=True))
            rows.append({"D": head_dim, "mask": mask, "kernel": kernel, **named})
    return rows


def decode_rows() -> list[dict]:
    case = Case("float16", queries=1, keys=4096, head_dim=64, heads=32, kv_heads=8)
    decode = count_decode(case)
    return [
        {
            "dtype": case.dtype,
            "keys": case.keys,
            "D": case.head_dim,
            "heads": f"{case.heads}/{case.kv_heads}",
            "device bytes": decode.device_bytes,
            "device bytes / least": decode.device_bytes_over_least,
        }
    ]


def print_tables(tables: dict[str, list[dict]], file: TextIO) -> None:
    console = Console(file=file, width=TABLE_WIDTH)
    for title, rows in tables.items():
        console.print(table_of(title, rows))


def table_of(title: str, rows: list[dict]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name, value in rows[0].items():
        table.add_column(name.replace(" / ", "\n/ "), justify="left" if isinstance(value, str) else "right")
    for row in rows:
        table.add_row(*map(cell, row.values()))
    return table


def cell(value: str | int | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metal_counters", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the tables as JSON")
    options = parser.parse_args()
    device = mfa.Context("metal").describe()
    if not device.device.endswith("(emulated)"):
        raise SystemExit(
            f"{device.device} counts nothing: tests/metal_emulator/run brings the device that does"
        )
    half = count_full(("float16",), LENGTHS)
    tables = {
        f"One head of N queries and keys, {device.isa}": full_rows(half),
        "Other types": full_rows(count_full(("bfloat16", "float32"), LENGTHS[:1])),
        f"Masked, over full: float16, N = {MASKED_LENGTH}": masked_rows(count_masked(half)),
        f"Forward, next to MLX: float16, N = {MLX_LENGTH}": mlx_rows(),
        "Decoding: 1 query": decode_rows(),
    }
    if options.json:
        print(json.dumps(tables))
        return 0
    print_tables(tables, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())

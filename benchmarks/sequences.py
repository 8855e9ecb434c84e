"""Times sequences of different lengths and pages next to what one would do without, in turns in one process.

    python -m benchmarks.sequences

varlen: packed sequences, next to as many visible scores of one length, and to the same padded to the longest.
paged: decoding from pages of so many rows, next to the same rows side by side.
step: decoding that first appends a row, turned by its position, next to decoding alone.

Only the CPU backend is timed. Ratios are medians over rounds of the first time over the second.
"""

import argparse
import ctypes
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.cases import ITEM_BYTES, MIB
from benchmarks.compare_builds import Side, median_ratio
from benchmarks.library import (
    ALIGN_BOTTOM_RIGHT,
    CAUSAL,
    DEFAULT_PRECISION,
    Append,
    BackwardDesc,
    ForwardDesc,
    Library,
    Pages,
    Sequences,
    SequencesDesc,
    pointers,
    tensor,
)
from benchmarks.operands import DTYPES

BUILT = Path(__file__).resolve().parent.parent / "mfa" / "libmfa.so"
SHORTEST = 16
LINE = 64


@dataclass(frozen=True)
class Size:
    rounds: int
    turn_seconds: float
    longest: int  # of packed sequences
    padded_longest: int  # of those that are padded as well
    cache: int  # keys
    rotate_bytes: int  # keys and values of successive calls are spread over as much memory


FULL = Size(
    rounds=9, turn_seconds=0.02, longest=4096, padded_longest=1024, cache=8192, rotate_bytes=256 * MIB
)
SMOKE = Size(rounds=2, turn_seconds=0.0, longest=64, padded_longest=32, cache=64, rotate_bytes=0)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins with a line of the cache, as large arrays of NumPy do not."""
    memory = np.empty(array.nbytes + LINE, np.uint8)
    begin = -memory.ctypes.data % LINE
    copy = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def random_arrays(dtype: str, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: aligned(generator.standard_normal(shape, dtype=np.float32).astype(DTYPES[dtype]))
        for name, shape in shapes.items()
    }


def lists(part: type, **entries) -> ctypes.Structure:
    """A struct whose members are lists of INT32; those with one axis are (1, 1, 1, n)."""
    arrays = [np.ascontiguousarray(entry, np.int32) for entry in entries.values()]
    arrays = [array.reshape((1,) * (4 - array.ndim) + array.shape) for array in arrays]
    tensors = {name: tensor(array, "int32") for name, array in zip(entries, arrays, strict=True)}
    made = part(**pointers(tensors))
    made.kept = arrays
    return made


def make_call(
    library: Library, dtype: str, arrays: dict[str, np.ndarray], *, backward: bool = False, **parts
):
    """What runs one pass, causal, over arrays of (B, N, H, D)."""

    def tensors(some: dict[str, np.ndarray]):
        return pointers({name: tensor(array.swapaxes(1, 2), dtype) for name, array in some.items()})

    batch, rows, heads, _ = arrays["query"].shape
    results = {"out": np.empty((batch, rows, heads, arrays["value"].shape[3]), DTYPES[dtype])}
    lse = np.empty((batch, heads, rows, 1), np.float32)
    desc = SequencesDesc(
        **tensors(arrays | results),
        **pointers({"logsumexp": tensor(lse, "float32")} if backward else {}),
        flags=CAUSAL,
        alignment=ALIGN_BOTTOM_RIGHT,
        intermediate_precision=DEFAULT_PRECISION,
        window_left=-1,
        window_right=-1,
        **pointers(parts),
    )
    run = library.runner("mfa_attention_forward_desc", desc, arrays, results, lse, parts)
    if not backward:
        return run
    run()
    results |= {f"d{name}": np.empty_like(array) for name, array in (arrays | results).items()}
    gradients = {name: array for name, array in results.items() if name != "out"}
    forward = ctypes.cast(ctypes.pointer(desc), ctypes.POINTER(ForwardDesc))
    backward_desc = BackwardDesc(forward=forward, **tensors(gradients))
    return library.runner("mfa_attention_backward_desc", backward_desc, arrays, results, lse, parts, desc)


def report(name: str, size: Size, first: list, second: list, scale: float = 1.0) -> None:
    """Times both; the second does `1 / scale` of the first's work."""
    sides = [Side(first, []), Side(second, [])]
    count = max(1, math.ceil(size.turn_seconds / max(side.time(len(side.calls))[0] for side in sides)))
    for index in range(size.rounds):
        for side in sides if index % 2 == 0 else reversed(sides):
            side.take_turn(count)
    ours, other = (1e3 * min(side.seconds) for side in sides)
    ratios = [
        median_ratio(sides[1].seconds, sides[0].seconds),
        median_ratio(sides[1].cpu_seconds, sides[0].cpu_seconds),
    ]
    print(
        f"{name:56}{ours:10.3f}{other * scale:10.3f}" + "".join(f"{each / scale:8.3f}" for each in ratios),
        flush=True,
    )


def lengths_up_to(longest: int, count: int) -> np.ndarray:
    """Log-uniform, in a random order."""
    lengths = np.geomspace(SHORTEST, longest, count).round().astype(np.int64)
    return np.random.default_rng(0).permutation(lengths)


def packed(lengths: np.ndarray) -> Sequences:
    starts = np.concatenate(([0], lengths.cumsum()))
    return lists(Sequences, query_starts=starts, key_starts=starts)


def causal_pairs(lengths: np.ndarray) -> int:
    return int((lengths * (lengths + 1) // 2).sum())


def varlen(library: Library, size: Size, dtype: str, backward: bool) -> None:
    heads, dim = 4, 64
    name = f"varlen {'backward ' if backward else ''}{dtype}"

    def arrays(batch: int, rows: int) -> dict[str, np.ndarray]:
        shape = (batch, rows, heads, dim)
        return random_arrays(dtype, query=shape, key=shape, value=shape)

    lengths = lengths_up_to(size.longest, 64)
    ours = make_call(library, dtype, arrays(1, lengths.sum()), backward=backward, sequences=packed(lengths))
    dense_lengths = np.full(4, size.longest // 2)
    dense = make_call(library, dtype, arrays(4, size.longest // 2), backward=backward)
    scale = causal_pairs(lengths) / causal_pairs(dense_lengths)
    report(f"{name}, 64 of {SHORTEST} to {size.longest} : as dense", size, [ours], [dense], scale)

    lengths = lengths_up_to(size.padded_longest, 16)
    ours = make_call(library, dtype, arrays(1, lengths.sum()), backward=backward, sequences=packed(lengths))
    padded = make_call(library, dtype, arrays(16, size.padded_longest), backward=backward)
    report(f"{name}, 16 of {SHORTEST} to {size.padded_longest} : padded", size, [ours], [padded])


def caches(dtype: str, batch: int, keys: int, size: Size) -> list[dict[str, np.ndarray]]:
    """Of one query, 32 heads and 8 key/value heads."""
    kv_shape = (batch, keys, 8, 128)
    kv_bytes = 2 * math.prod(kv_shape) * ITEM_BYTES[dtype]
    first = random_arrays(dtype, query=(batch, 1, 32, 128), key=kv_shape, value=kv_shape)
    copies = max(1, math.ceil(size.rotate_bytes / kv_bytes)) - 1
    return [first, *({name: aligned(array) for name, array in first.items()} for _ in range(copies))]


def paged(library: Library, size: Size, dtype: str, batch: int) -> None:
    keys = size.cache // batch
    sets = caches(dtype, batch, keys, size)
    contiguous = [make_call(library, dtype, arrays) for arrays in sets]
    for rows in (1, 5, 16, 64, 256):
        if rows > keys:
            continue
        each = -(-keys // rows)
        table = np.random.default_rng(0).permutation(batch * each).reshape(batch, each)
        lengths = np.full(batch, keys)

        def cut(array: np.ndarray, rows=rows, each=each) -> np.ndarray:
            pages = np.empty(
                (batch, each * rows, *array.shape[2:]), array.dtype
            )  # zeros have smaller pages of memory
            pages[:, :keys] = array
            return aligned(pages).reshape(batch * each, rows, *array.shape[2:])

        calls = [
            make_call(
                library,
                dtype,
                {"query": arrays["query"], "key": cut(arrays["key"]), "value": cut(arrays["value"])},
                sequences=lists(Sequences, key_lengths=lengths),
                pages=lists(Pages, page_table=table),
            )
            for arrays in sets
        ]
        report(
            f"decode {dtype}, {batch} of {keys} keys, pages of {rows} : contiguous", size, calls, contiguous
        )


def step(library: Library, size: Size, dtype: str, keys: int) -> None:
    arrays = caches(dtype, 1, keys, SMOKE)[0]
    new = random_arrays(dtype, key=(1, 1, 8, 128), value=(1, 1, 8, 128))
    tables = random_arrays("float32", rotary_cos=(1, 1, keys, 64), rotary_sin=(1, 1, keys, 64))
    tensors = {name: tensor(array.swapaxes(1, 2), dtype) for name, array in new.items()}
    tensors |= {name: tensor(array, "float32") for name, array in tables.items()}
    append = Append(**pointers(tensors))
    append.kept = (new, tables)
    plain = make_call(library, dtype, arrays, sequences=lists(Sequences, key_lengths=[keys]))
    appending = make_call(
        library, dtype, arrays, sequences=lists(Sequences, key_lengths=[keys - 1]), append=append
    )
    report(f"step {dtype}, {keys} keys, append and turn : decode", size, [appending], [plain])


def parse() -> argparse.Namespace:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sequences", description=__doc__, formatter_class=kind
    )
    parser.add_argument(
        "--library", type=Path, default=BUILT, metavar="PATH", help="of a libmfa.so (default: built here)"
    )
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument(
        "--group", nargs="+", choices=("varlen", "paged", "step"), default=["varlen", "paged", "step"]
    )
    parser.add_argument("--dtype", nargs="+", choices=tuple(DTYPES), default=["float32", "bfloat16"])
    parser.add_argument(
        "--smoke",
        dest="size",
        action="store_const",
        const=SMOKE,
        default=FULL,
        help="tiny shapes: does it run at all?",
    )
    return parser.parse_args()


def main() -> None:
    options = parse()
    library, size = Library(options.library, options.threads), options.size
    print(f"{'first : second':56}{'ms':>10}{'ms':>10}{'ratio':>8}{'cpu':>8}")
    for dtype in options.dtype:
        if "varlen" in options.group:
            varlen(library, size, dtype, backward=False)
            varlen(library, size, dtype, backward=True)
        if "paged" in options.group:
            paged(library, size, dtype, batch=1)
            paged(library, size, dtype, batch=8)
        if "step" in options.group:
            step(library, size, dtype, max(SHORTEST, size.cache // 8))


if __name__ == "__main__":
    main()

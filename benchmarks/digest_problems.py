"""The problems of digest.py: small, at the edges of lengths and head dimensions, with every feature."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

DTYPES = ("float32", "float16", "bfloat16")
PASSES = (False, True)  # backward?
HEAD_DIMS = (1, 3, 8, 16, 40, 64, 65, 80, 128, 200)
VALUE_DIMS = ((64, 1), (1, 64), (40, 128), (128, 65), (200, 8), (3, 200))  # beside a head dimension
LENGTHS = (
    *((0, 0), (0, 5), (5, 0), (1, 1), (1, 2), (2, 1), (16, 16), (17, 16), (16, 17), (17, 17), (63, 63)),
    *(
        (64, 64),
        (65, 65),
        (64, 63),
        (63, 65),
        (65, 128),
        (128, 64),
        (128, 1),
        (300, 128),
        (128, 300),
        (20, 513),
    ),
    *((513, 20), (300, 300), (16, 1030), (17, 1030)),
)
WINDOWS = ((0, 0), (3, 0), (-1, 2), (40, 10), (64, -1), (500, 0), (0, 500))
BOOL_MASKS = ("full", "padding", "left-padding", "rows", "scores")
BIASES = ("full", "keys", "batch-keys", "rows", "heads", "scores", "scalar")
BIAS_HIDES = ("end", "start", "rows", "scattered")  # where it is -inf
MEMORIES = ("transposed", "every-other", "reversed", "shared", "interleaved")
POISONS = (
    *(
        "nan-query",
        "inf-query",
        "nan-key",
        "inf-key",
        "nan-value",
        "inf-value",
        "minus-inf-value",
        "nan-dout",
    ),
    *("nan-bias", "inf-bias", "hidden"),
)
METAL_MULTIPLIES = 5_000_000


@dataclass(frozen=True)
class Problem:
    """One attention call, and if `backward` the one for its gradients.

    Its operands follow from its description, so that other problems may come and go.
    """

    queries: int
    keys: int
    head_dim: int
    dtype: str = "float32"
    backward: bool = False
    value_dim: int | None = None  # None: head_dim
    batch: int = 1
    heads: int = 2
    kv_heads: int | None = None  # None: heads
    out_dtype: str | None = None
    gradient_dtype: str | None = None
    causal: str | None = None
    alignment: str | None = None
    window: tuple[int, int] = (-1, -1)
    softmax_scale: float | None = None
    softcap: float = 0.0
    mask: str | None = None  # one of BOOL_MASKS
    bias: str | None = None  # one of BIASES: the shape before it is broadcast
    bias_dtype: str = "float32"
    bias_hides: str | None = None
    alibi: str | None = None  # slopes for each of "heads", or of "batch" and heads
    sinks: bool = False
    dropout_p: float = 0.0
    exact_weights: bool = False
    lse: bool = True
    wanted: tuple[str, ...] | None = None  # gradients
    layout: str = "bshd"
    memory: str = "packed"  # or one of MEMORIES, of operands and out
    spread: float = 1.0  # of the entries of query and key
    poison: str | None = None
    threads: int = 2

    @property
    def values(self) -> int:
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def key_heads(self) -> int:
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def multiplies(self) -> int:
        """For the scores."""
        return self.batch * self.heads * self.queries * self.keys * self.head_dim

    @property
    def description(self) -> str:
        """Without what is at its default, so that a new field leaves older problems alone."""
        parts = [
            "backward" if self.backward else "forward",
            f"{self.batch}x{self.heads}:{self.key_heads}x{self.queries}:{self.keys}x{self.head_dim}:{self.values}",
            self.dtype,
        ]
        said = {"queries", "keys", "head_dim", "dtype", "backward", "value_dim", "batch", "heads", "kv_heads"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in said and value != field.default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                parts.append(f"{field.name}={text}")
        return " ".join(parts)


def head_dims() -> Iterator[Problem]:
    for head_dim, dtype, backward in itertools.product(HEAD_DIMS, DTYPES, PASSES):
        yield Problem(65, 130, head_dim, dtype, backward)
    for (head_dim, value_dim), dtype, backward in itertools.product(VALUE_DIMS, DTYPES[::2], PASSES):
        yield Problem(33, 70, head_dim, dtype, backward, value_dim)


def lengths() -> Iterator[Problem]:
    for (queries, keys), dtype, backward in itertools.product(LENGTHS, DTYPES[::2], PASSES):
        yield Problem(queries, keys, 40, dtype, backward)
    yield Problem(0, 7, 16, batch=0)
    for dtype, backward in itertools.product(DTYPES, PASSES):
        yield Problem(1030, 1030, 64, dtype, backward, heads=1)
        yield Problem(33, 65, 16, dtype, backward, batch=3, heads=6, kv_heads=2)


def decode() -> Iterator[Problem]:
    for dtype, (rows, heads, kv_heads), keys in itertools.product(
        DTYPES, ((1, 8, 2), (1, 3, 3), (4, 8, 8), (5, 6, 2), (16, 4, 1)), (1, 64, 301)
    ):
        yield Problem(rows, keys, 64, dtype, batch=2, heads=heads, kv_heads=kv_heads)
    for dtype in DTYPES:
        long = Problem(1, 4099, 128, dtype, heads=8, kv_heads=2)
        yield from (
            long,
            replace(long, lse=False),
            replace(long, window=(1000, 0)),
            replace(long, sinks=True),
        )
        few = Problem(3, 1030, 80, dtype, heads=8, kv_heads=2)
        yield from (few, replace(few, causal="bottom-right"), replace(few, exact_weights=True))
        yield from (replace(few, mask=mask) for mask in BOOL_MASKS)
        yield from (replace(few, bias=bias, bias_hides="end") for bias in ("full", "keys", "scores"))
        yield replace(few, alibi="heads", softcap=20.0, dropout_p=0.3, out_dtype="float32")


def ranges() -> Iterator[Problem]:
    shapes = ((130, 130), (70, 200), (200, 70))
    for (queries, keys), dtype, backward in itertools.product(shapes, DTYPES[::2], PASSES):
        plain = Problem(queries, keys, 32, dtype, backward)
        yield from (replace(plain, causal=causal) for causal in ("top-left", "bottom-right"))
    for (queries, keys), window, backward in itertools.product(shapes[1:], WINDOWS, PASSES):
        for alignment in ("top-left", "bottom-right"):
            yield Problem(queries, keys, 24, backward=backward, alignment=alignment, window=window)
    for dtype, backward in itertools.product(DTYPES, PASSES):
        yield Problem(300, 300, 64, dtype, backward, causal="top-left", window=(100, -1))


def masks() -> Iterator[Problem]:
    for dtype, backward in itertools.product(DTYPES[::2], PASSES):
        plain = Problem(67, 150, 48, dtype, backward, batch=2)
        yield from (replace(plain, mask=mask) for mask in BOOL_MASKS)
        for bias, bias_dtype in zip(BIASES, itertools.cycle(DTYPES), strict=False):
            yield replace(plain, bias=bias, bias_dtype=bias_dtype)
        yield from (replace(plain, bias="full", bias_hides=hides) for hides in BIAS_HIDES)
        yield from (replace(plain, bias="batch-keys", bias_hides=hides) for hides in ("end", "start"))
        yield replace(plain, bias="scores", mask="padding", causal="bottom-right")
        yield replace(
            plain, bias="full", heads=4, kv_heads=2, bias_dtype="bfloat16", gradient_dtype="float32"
        )


def features() -> Iterator[Problem]:
    for dtype, backward in itertools.product(DTYPES, PASSES):
        plain = Problem(50, 90, 56, dtype, backward, batch=2)
        yield from (replace(plain, alibi=alibi) for alibi in ("heads", "batch"))
        yield replace(plain, alibi="heads", causal="bottom-right")
        yield from (replace(plain, softcap=softcap) for softcap in (0.5, 30.0))
        yield replace(plain, sinks=True)
        yield replace(plain, sinks=True, mask="rows")
        yield from (replace(plain, dropout_p=dropout_p) for dropout_p in (0.1, 0.5))
        yield from (replace(plain, softmax_scale=scale) for scale in (0.0, -0.5, 1e-6, 1e4))
        yield from (replace(plain, spread=spread) for spread in (30.0, 1e-20))
        yield replace(plain, exact_weights=True)


def formats() -> Iterator[Problem]:
    for dtype, out_dtype in itertools.product(DTYPES, DTYPES):
        if dtype != out_dtype:
            yield Problem(40, 70, 33, dtype, out_dtype=out_dtype)
            yield Problem(2, 70, 33, dtype, out_dtype=out_dtype)
            yield Problem(40, 70, 33, dtype, True, out_dtype=out_dtype, gradient_dtype=out_dtype)
            yield Problem(40, 70, 33, dtype, True, gradient_dtype=out_dtype)
    for wanted in (("dq",), ("dk",), ("dv",), ("dk", "dv"), ("dbias",), ("dsinks",), ("dq", "dbias")):
        yield Problem(40, 70, 33, backward=True, bias="scores", sinks=True, wanted=wanted)


def memories() -> Iterator[Problem]:
    for memory, dtype, backward in itertools.product(MEMORIES, DTYPES, PASSES):
        yield Problem(45, 45, 36, dtype, backward, batch=2, heads=3, memory=memory)
    for memory, dtype in itertools.product(MEMORIES, DTYPES):
        yield Problem(2, 45, 36, dtype, batch=2, heads=4, kv_heads=2, memory=memory, layout="bhsd")
    for memory, backward in itertools.product(("packed", "transposed"), PASSES):
        yield Problem(45, 71, 64, "bfloat16", backward, bias="full", memory=memory, layout="bhsd")


def poisons() -> Iterator[Problem]:
    for poison, dtype in itertools.product(POISONS, DTYPES[::2]):
        bias = "full" if "bias" in poison else None
        mask = "padding" if poison == "hidden" else None
        plain = Problem(70, 100, 24, dtype, bias=bias, mask=mask, poison=poison)
        if poison != "nan-dout":
            yield from (plain, replace(plain, causal="bottom-right"))
            yield replace(plain, queries=2, keys=101)
        yield from (replace(plain, backward=True), replace(plain, backward=True, window=(20, 20)))


def threads() -> Iterator[Problem]:
    """Problems of other groups, or like them, on one thread: results do not depend on it."""
    for dtype, backward in itertools.product(DTYPES, PASSES):
        yield Problem(300, 300, 64, dtype, backward, causal="top-left", window=(100, -1), threads=1)
        yield Problem(513, 700, 32, dtype, backward, heads=1, bias="keys", threads=1)
        yield Problem(513, 700, 32, dtype, backward, heads=1, bias="keys")
    for dtype in DTYPES:
        yield Problem(1, 4099, 128, dtype, heads=8, kv_heads=2, threads=1)


def mixed(count: int = 60) -> Iterator[Problem]:
    """Features together, the i-th drawn by i alone. What is drawn anew goes at the end."""
    for index in range(count):
        draw = random.Random(f"mixed {index}").choice
        kv_heads = draw((1, 2, 3))
        problem = Problem(
            queries=draw((1, 2, 9, 40, 65, 130)),
            keys=draw((1, 31, 64, 130, 270)),
            head_dim=draw((5, 16, 40, 64, 100)),
            dtype=draw(DTYPES),
            backward=draw(PASSES),
            value_dim=draw((None, None, 24, 96)),
            batch=draw((1, 2)),
            kv_heads=kv_heads,
            heads=kv_heads * draw((1, 2)),
            out_dtype=draw((None, None, *DTYPES)),
            gradient_dtype=draw((None, "float32")),
            causal=draw((None, "top-left", "bottom-right")),
            window=draw(((-1, -1), (-1, -1), (60, 3), (7, -1))),
            softmax_scale=draw((None, None, 0.3, -0.2)),
            softcap=draw((0.0, 0.0, 10.0)),
            mask=draw((None, None, *BOOL_MASKS)),
            bias=draw((None, None, *BIASES)),
            bias_dtype=draw(DTYPES),
            alibi=draw((None, None, "heads", "batch")),
            sinks=draw(PASSES),
            dropout_p=draw((0.0, 0.0, 0.2)),
            exact_weights=draw((False, False, True)),
            layout=draw(("bshd", "bhsd")),
            memory=draw(("packed", "packed", "transposed", "reversed", "every-other")),
        )
        hides = draw((None, None, *BIAS_HIDES))
        yield replace(problem, bias_hides=hides if problem.bias else None)


GROUPS = (head_dims, lengths, decode, ranges, masks, features, formats, memories, poisons, threads, mixed)


def cpu_problems() -> list[Problem]:
    return list(dict.fromkeys(problem for group in GROUPS for problem in group()))


def metal_problems() -> list[Problem]:
    """Those that the emulated GPU is fast enough for; it has no threads to choose."""
    return [
        problem
        for problem in cpu_problems()
        if problem.multiplies <= METAL_MULTIPLIES and problem.threads != 1
    ]

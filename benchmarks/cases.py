"""What is measured: the rows of the target tables of the project, each a group of attention problems."""

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from benchmarks.patterns import pairs_seen

MIB = 2**20
ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Target:
    """A bound on one measure of a case; `peer` where the measure is the ratio to a peer's time."""

    measure: Literal["peak_fraction", "bandwidth_fraction", "share_of_full", "speedup"]
    bound: float
    peer: str | None = None

    def met_by(self, value: float) -> bool:
        return value <= self.bound if self.measure == "share_of_full" else value >= self.bound

    def __str__(self) -> str:
        return {
            "peak_fraction": f">= {self.bound:.2f} of the peak",
            "bandwidth_fraction": f">= {self.bound:.2f} of the bandwidth",
            "share_of_full": f"<= {self.bound:.4g} of our full time",
            "speedup": f">= {self.bound:.2f}x {self.peer}",
        }[self.measure]


@dataclass(frozen=True)
class Case:
    """One attention problem. Masked ones are square; `window` is how many keys, the last, a query sees."""

    group: str
    batch: int
    heads: int
    query_length: int
    head_dim: int
    dtype: str
    key_length: int
    kv_heads: int
    causal: bool = False
    window: int | None = None
    pattern: str | None = None  # of benchmarks.patterns, in blocks of `block` by `block`
    block: int = 0
    backward: bool = False  # whether gradients are wanted, of the bias as well
    bias: bool = False  # an additive one of full size
    dropout_p: float = 0.0
    cpu_isa: str = "auto"
    rotate_bytes: int = 0  # keys and values of successive calls are spread over as much memory
    quick: bool = True  # whether --quick keeps it
    targets: tuple[Target, ...] = ()

    @property
    def name(self) -> str:
        lengths = f"{self.query_length}"
        heads = f"{self.heads}"
        if self.key_length != self.query_length:
            lengths += f":{self.key_length}"
        if self.kv_heads != self.heads:
            heads += f":{self.kv_heads}"
        parts = [f"{self.batch}x{heads}x{lengths}x{self.head_dim}", self.dtype]
        if self.causal:
            parts.append("causal")
        if self.window is not None:
            parts.append(f"window {self.window}")
        if self.pattern is not None:
            parts.append(f"{self.pattern} {self.block}")
        if self.bias:
            parts.append("bias")
        if self.dropout_p:
            parts.append(f"dropout {self.dropout_p}")
        if self.cpu_isa != "auto":
            parts.append(self.cpu_isa)
        return " ".join(parts)

    @property
    def masked(self) -> bool:
        return self.causal or self.window is not None or self.pattern is not None

    @property
    def visible_pairs(self) -> int:
        """Pairs of a query and a key that it sees, over all heads."""
        pairs = self.query_length * self.key_length
        if self.pattern is not None:
            rows = np.arange(self.query_length)
            pairs = int(pairs_seen(self.pattern, self.block, rows, self.key_length).sum())
        elif self.masked:
            last = min(self.key_length if self.window is None else self.window, self.key_length)
            pairs = self.query_length * last - last * (last - 1) // 2
        return self.batch * self.heads * pairs

    @property
    def flop(self) -> int:
        products = 5 if self.backward else 2
        return 2 * products * self.visible_pairs * self.head_dim

    @property
    def instructions(self) -> int:
        """GINSTRS as metal-flash-attention counts them: backward, of its kernels for dQ and for dK and dV."""
        dim = self.head_dim
        each = (3 * dim + 5) + (4 * dim + 5) if self.backward else 2 * dim + 5
        return each * self.visible_pairs

    @property
    def kv_bytes(self) -> int:
        return 2 * self.batch * self.kv_heads * self.key_length * self.head_dim * ITEM_BYTES[self.dtype]

    @property
    def training_result_bytes(self) -> int:
        """Of the output, the logsumexp, and the gradients of query, key and value."""
        queries = self.batch * self.heads * self.query_length
        return 2 * queries * self.head_dim * ITEM_BYTES[self.dtype] + 4 * queries + self.kv_bytes

    def unmasked(self) -> "Case":
        return replace(self, causal=False, window=None, pattern=None, block=0)


def square(group: str, shape: tuple[int, int, int, int], dtype: str, **fields) -> Case:
    batch, heads, length, head_dim = shape
    return Case(group, batch, heads, length, head_dim, dtype, key_length=length, kv_heads=heads, **fields)


DTYPES = ("float32", "bfloat16", "float16")
PREFILL_SHAPES = ((1, 8, 1024, 64), (1, 8, 2048, 128), (1, 4, 4096, 64))


def prefill_targets(shape: tuple[int, int, int, int], dtype: str) -> tuple[Target, ...]:
    _, _, length, head_dim = shape
    if dtype == "float32":
        return (
            Target("peak_fraction", 0.85),
            Target("speedup", 1.03, "ONNX Runtime"),
            Target("speedup", 1.2, "torch"),
        )
    if dtype == "bfloat16":
        return (
            Target("peak_fraction", 0.70 if head_dim == 64 else 0.78),
            Target("speedup", 1.0 if length == 4096 else 1.15, "OpenVINO"),
            Target("speedup", 2.2, "torch"),
        )
    return (Target("peak_fraction", 0.75), Target("speedup", 1.5, "torch"))


def prefill() -> list[Case]:
    return [
        square(
            "prefill",
            shape,
            dtype,
            targets=prefill_targets(shape, dtype),
            quick=dtype != "float16" or shape == PREFILL_SHAPES[0],
        )
        for shape, dtype in itertools.product(PREFILL_SHAPES, DTYPES)
    ]


def causal() -> list[Case]:
    targets = (Target("share_of_full", 0.56),)
    return [
        square("causal", shape, dtype, causal=True, targets=targets, quick=shape == PREFILL_SHAPES[0])
        for shape, dtype in itertools.product(PREFILL_SHAPES, DTYPES)
    ]


def window() -> list[Case]:
    short = [
        square(
            "window",
            (1, 8, 1024, 64),
            dtype,
            window=width,
            targets=(Target("share_of_full", bound),),
            quick=dtype == "float32",
        )
        for (width, bound), dtype in itertools.product(((256, 0.35), (64, 0.15)), DTYPES)
    ]
    over_flex = (Target("speedup", 2.0, "flex_attention"),)
    long = [
        square("window", (1, 8, 8192, 64), dtype, window=256, targets=over_flex, quick=dtype == "float32")
        for dtype in DTYPES
    ]
    return short + long


def decode() -> list[Case]:
    targets = (Target("bandwidth_fraction", 0.85), Target("speedup", 6.0, "torch"))
    return [
        Case("decode", 1, 32, 1, 128, dtype, 8192, kv_heads=8, rotate_bytes=256 * MIB, targets=targets)
        for dtype in ("float32", "bfloat16")
    ]


def ahead_of_torch_and_ort(dtype: str, bound: float) -> tuple[Target, ...]:
    ort = () if dtype == "bfloat16" else (Target("speedup", bound, "ONNX Runtime"),)  # it has no bfloat16
    return (Target("speedup", bound, "torch"), *ort)


def small() -> list[Case]:
    return [
        square("small", shape, dtype, targets=ahead_of_torch_and_ort(dtype, 1.5))
        for shape, dtype in itertools.product(((8, 16, 128, 64), (64, 12, 77, 64)), DTYPES)
    ]


def odd() -> list[Case]:
    return [
        square(
            "odd",
            (1, 8, 1024, dim),
            dtype,
            targets=ahead_of_torch_and_ort(dtype, 1.0),
            quick=dim in (40, 160),
        )
        for dim, dtype in itertools.product((40, 72, 80, 96, 160), DTYPES)
    ]


def isa() -> list[Case]:
    return [
        square("isa", shape, "float32", cpu_isa="avx2", targets=(Target("peak_fraction", bound),))
        for shape, bound in (((1, 8, 1024, 64), 0.75), ((1, 8, 2048, 128), 0.80))
    ]


BACKWARD_SHAPES = ((1, 8, 1024, 64), (1, 8, 2048, 128))
BACKWARD_TARGETS = {
    "float32": (Target("peak_fraction", 0.70), Target("speedup", 1.7, "torch")),
    "bfloat16": (Target("peak_fraction", 0.50), Target("speedup", 2.5, "torch")),
}


def backward() -> list[Case]:
    def case(shape: tuple[int, int, int, int], dtype: str, target: Target, **fields) -> Case:
        return square("backward", shape, dtype, backward=True, targets=(target,), **fields)

    short, ahead = BACKWARD_SHAPES[0], Target("speedup", 1.0, "torch")
    share = Target("share_of_full", 0.58)
    full = [
        square("backward", shape, dtype, backward=True, targets=targets, quick=shape == short)
        for shape, (dtype, targets) in itertools.product(BACKWARD_SHAPES, BACKWARD_TARGETS.items())
    ]
    causal = [
        case(shape, dtype, share, causal=True, quick=(shape, dtype) == (short, "float32"))
        for shape, dtype in itertools.product(BACKWARD_SHAPES, BACKWARD_TARGETS)
    ]
    return [
        *full,
        *causal,
        case((1, 8, 8192, 64), "float32", Target("share_of_full", 1 / 8), window=256, quick=False),
        replace(case((1, 32, 1024, 128), "bfloat16", ahead, quick=False), kv_heads=8),
        case(short, "float32", ahead, bias=True),
        case(short, "float32", ahead, dropout_p=0.1, quick=False),
    ]


def memory() -> list[Case]:
    """Forward and backward, of which the peak memory is measured instead of the time."""
    return [
        square("memory", (1, 8, length, 64), dtype, backward=True, quick=length == 4096)
        for dtype, length in itertools.product(("float32", "bfloat16"), (2048, 4096, 8192))
    ]


PATTERNS = ({"pattern": "longformer", "block": 128}, {"pattern": "bigbird", "block": 64})


def in_proportion(case: Case) -> Case:
    """With the target of a time in proportion to the pairs that are seen, within 15 %."""
    share = Target("share_of_full", 1.15 * case.visible_pairs / case.unmasked().visible_pairs)
    return replace(case, targets=(share, *case.targets))


def sparse() -> list[Case]:
    targets = (Target("speedup", 2.0, "flex_attention"),)
    shapes = ((1, 8, 4096, 64), (1, 4, 16384, 64))
    return [
        in_proportion(
            square(
                "sparse",
                shape,
                dtype,
                targets=targets,
                quick=(shape, dtype) == (shapes[0], "float32"),
                **pattern,
            )
        )
        for pattern, shape, dtype in itertools.product(PATTERNS, shapes, ("float32", "bfloat16"))
    ]


def sparse_backward() -> list[Case]:
    return [
        in_proportion(
            square("sparse_backward", (1, 8, 4096, 64), "float32", backward=True, quick=False, **pattern)
        )
        for pattern in PATTERNS
    ]


MAKERS = (prefill, causal, window, decode, small, odd, isa, backward, sparse, sparse_backward, memory)
GROUPS = {maker.__name__: maker for maker in MAKERS}
QUANTIZED = "quantized"  # a group of another kind: benchmarks.quantized
TORCH = "torch"  # likewise: benchmarks.tensors


def tiny(case: Case) -> Case:
    """The same kind of problem in a size that takes no time."""
    length = 1 if case.query_length == 1 else 48
    return replace(
        case,
        batch=1,
        heads=4,
        kv_heads=4 if case.kv_heads == case.heads else 2,
        query_length=length,
        key_length=48,
        head_dim=min(case.head_dim, 40),
        window=case.window and 8,
        block=case.block and 5,
        rotate_bytes=0,
        quick=True,
        targets=(),
    )


def select(groups: list[str], size: Literal["full", "quick", "smoke"]) -> list[Case]:
    cases = [case for group in groups if group in GROUPS for case in GROUPS[group]()]
    if size == "quick":
        return [case for case in cases if case.quick]
    if size == "smoke":
        return list(dict.fromkeys(map(tiny, cases)))
    return cases

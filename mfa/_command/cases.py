"""What ``check`` computes: small problems that reach options, kinds of kernels, and edges of shapes."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from mfa._command.shapes import Shape, parse

Generator = numpy.random.Generator


@dataclass(frozen=True)
class Case:
    """One problem; `codes` are the arguments of `mfa.quantize`, for keys and values alike."""

    name: str
    shape: Shape
    dtype: str = "float32"
    options: Callable[[Generator, Shape], dict[str, Any]] = lambda generator, shape: {}
    codes: dict[str, Any] | None = None
    compute_mode: str = "exact"

    def generator(self) -> Generator:
        """Of the same numbers in every run."""
        return numpy.random.default_rng(zlib.crc32(self.name.encode()))


def fixed(**options: Any) -> Callable[[Generator, Shape], dict[str, Any]]:
    return lambda generator, shape: options


def scored(generator: Generator, shape: Shape) -> dict[str, Any]:
    """All that changes scores and hides none, and weights that are of no key."""
    return {
        "softcap": 3.0,
        "alibi_slopes": numpy.linspace(0.05, 0.4, shape.heads, dtype=numpy.float32),
        "sinks": generator.standard_normal(shape.heads, dtype=numpy.float32),
        "bias": generator.standard_normal((1, shape.heads, 1, shape.keys), dtype=numpy.float32),
    }


def masked(generator: Generator, shape: Shape) -> dict[str, Any]:
    """Some rows see no key, others one or a few."""
    scores = (shape.batch, shape.heads, shape.queries, shape.keys)
    mask = generator.random(scores) < generator.choice([0, 0.05, 0.9], (*scores[:3], 1))
    return {"mask": mask}


CASES = (
    Case("one element", parse("1x1x1x1")),
    Case("no keys", parse("1x2x3:0x16")),
    Case("several tiles", parse("1x3x301x64")),
    Case("several tiles", parse("1x3x301x64"), "float16"),
    Case("several tiles", parse("1x3x301x64"), "bfloat16"),
    Case("odd sizes", parse("1x3x37:41x5:7")),
    Case("head dimension 192, values 128", parse("1x2x65x192:128"), "bfloat16"),
    Case("heads that share keys", parse("2x6:2x40x32"), "float16"),
    Case("decoding", parse("1x8:2x1:1000x64")),
    Case("decoding", parse("1x8:2x1:1000x64"), "bfloat16"),
    Case("causal, top-left", parse("1x2x150:170x32"), options=fixed(causal="top-left")),
    Case("causal, rows without a key", parse("1x2x90:40x32"), options=fixed(causal="bottom-right")),
    Case("sliding window", parse("1x2x200x64"), "bfloat16", fixed(window=(17, 0), causal="bottom-right")),
    Case("window on both sides", parse("1x2x130:150x32"), options=fixed(window=(9, 4))),
    Case("mask, rows without a key", parse("1x2x70:90x32"), options=masked),
    Case("bias, ALiBi, softcap, sinks", parse("2x4:2x60:80x32"), options=scored),
    Case("int8", parse("2x4:2x150x64"), codes={"precision": "int8"}),
    Case("uint8, whole heads", parse("1x4x90x64"), codes={"precision": "uint8", "granularity": "head"}),
    Case(
        "int4, groups", parse("1x4x90x64"), "float16", codes={"precision": "int4", "granularity": "group32"}
    ),
    Case("int4, decoding", parse("1x8:2x1:700x64"), "bfloat16", codes={"precision": "int4"}),
    Case(
        "int8, whole-number products", parse("1x4x150x64"), codes={"precision": "int8"}, compute_mode="int8"
    ),
)

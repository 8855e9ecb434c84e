"""A case with operands, what float64 makes of them, and what a context does."""

from functools import cached_property
from typing import Any, NamedTuple

import numpy

from mfa._attention import attention
from mfa._attention_backward import attention_backward
from mfa._command import reference
from mfa._command.arrays import normal
from mfa._command.cases import Case
from mfa._context import Context
from mfa._quantize import quantize

# Relative to the largest element: several times what rounding comes to, a small part of what one key weighs.
BOUNDS = {"float32": 8e-6, "float16": 2e-3, "bfloat16": 1.5e-2}
BOUND_OF_WHOLE_PRODUCTS = 5e-2
SMALLEST = 1e-30  # where all is 0


class Result(NamedTuple):
    name: str
    got: numpy.ndarray
    expected: numpy.ndarray
    bound: float  # of the error of each element


class Problem:
    """Operands are made once, and so is what is expected: the same for every context."""

    def __init__(self, case: Case):
        generator, shape = case.generator(), case.shape
        self.case = case
        self.query, self.key, self.value = (
            normal(generator, sizes, case.dtype) for sizes in (shape.query, shape.key, shape.value)
        )
        self.dout = normal(generator, (*shape.query[:3], shape.value_dim), case.dtype)
        self.options = case.options(generator, shape)

    @cached_property
    def stored(self) -> list[numpy.ndarray]:
        """Keys and values, or what their codes stand for."""
        if self.case.codes is None:
            return [self.key, self.value]
        return [quantize(x, layout="bhsd", **self.case.codes).dequantize() for x in (self.key, self.value)]

    @cached_property
    def forward(self) -> dict[str, numpy.ndarray]:
        return reference.attention(self.query, *self.stored, **self.options)

    @cached_property
    def backward(self) -> dict[str, numpy.ndarray]:
        return reference.attention_backward(self.dout, self.query, *self.stored, **self.options)

    @property
    def bound(self) -> float:
        return BOUNDS[self.case.dtype] if self.case.compute_mode == "exact" else BOUND_OF_WHOLE_PRODUCTS


class Run:
    """One problem in one context; `backward` is for after `forward`."""

    def __init__(self, problem: Problem, context: Context):
        self.problem = problem
        self.context = context
        self.key: Any = problem.key
        self.value: Any = problem.value
        mode = problem.case.compute_mode
        self.call = {"layout": "bhsd", "context": context, "compute_mode": mode, **problem.options}

    def quantized(self) -> list[Result]:
        """Both passes, over codes that this context makes."""
        results = []
        for name in ("key", "value"):
            given = getattr(self, name)
            codes = quantize(given, layout="bhsd", context=self.context, **self.problem.case.codes)
            setattr(self, name, codes)
            # Rounded by half a scale at the most, and by another half at an end of the range.
            results.append(Result(f"codes of {name}", codes.dequantize(), given, float(codes.scales.max())))
        return results + self.forward() + self.backward()

    def forward(self) -> list[Result]:
        problem = self.problem
        self.out, self.lse = attention(problem.query, self.key, self.value, return_lse=True, **self.call)
        expected = problem.forward
        return [
            Result("out", self.out, expected["out"], problem.bound * largest([expected["out"]])),
            Result("lse", self.lse, expected["lse"], problem.bound * max(1, largest([expected["lse"]]))),
        ]

    def backward(self) -> list[Result]:
        problem = self.problem
        gradients = attention_backward(
            problem.dout, problem.query, self.key, self.value, self.out, self.lse, **self.call
        )
        expected = problem.backward
        bound = problem.bound * largest(expected.values())
        return [Result(name, getattr(gradients, name), wanted, bound) for name, wanted in expected.items()]


def largest(arrays: Any) -> float:
    """Of all magnitudes that are finite."""
    finite = (abs(array[numpy.isfinite(array)]) for array in arrays)
    return max([SMALLEST, *(float(array.max(initial=0)) for array in finite)])


def worst(results: list[Result]) -> tuple[float | None, str]:
    """The largest error over its bound, and what is wrong if that is over 1; None for NaN and infinities."""
    highest, failure = 0.0, ""
    for result in results:
        if result.got.shape != result.expected.shape:
            return None, f"{result.name}: shape {result.got.shape}, expected {result.expected.shape}"
        got, expected = numpy.float64(result.got), numpy.float64(result.expected)
        with numpy.errstate(invalid="ignore"):
            distance = numpy.where(got == expected, 0, abs(got - expected))
        ratios = numpy.nan_to_num(distance / result.bound, nan=numpy.inf, posinf=numpy.inf)
        ratio = float(ratios.max(initial=0))
        if ratio <= highest:
            continue
        highest = ratio
        if ratio > 1:
            place = numpy.unravel_index(ratios.argmax(), ratios.shape)
            where = ", ".join(map(str, place))
            failure = (
                f"{result.name}[{where}]: {got[place]:.9g}, "
                f"expected {expected[place]:.9g} within {result.bound:.2g}"
            )
    return (highest if numpy.isfinite(highest) else None), failure

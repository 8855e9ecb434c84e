"""score_mods: what FlexAttention lets a caller make of scores, and which of these the library does itself.

A score_mod is called with a `Score` that notes what is done to it. If that comes to a factor, a softcap and
an array of biases over indices, these are all that a call needs; whatever else is done raises, and the
function is then one that must be asked for every score. Samples tell only that each pair counts alone.
"""

import contextlib
import functools
import math
import sys
from typing import NamedTuple

import numpy

from mfa._mask_mods import (
    PROBED,
    Evaluated,
    as_array,
    close,
    grid,
    of_scalar_tensors,
    of_tensors,
    uses_torch,
    with_ndarrays,
    with_tensors,
)
from mfa._tensors import is_tensor

MOST_BIASES = 1 << 23  # that are in memory at once


class NotKnownError(Exception):
    """What is done to a Score or a Position is nothing that the library does itself."""


class Score:
    """``factor * score + bias``, or ``factor * tanh(inside * score) + bias``, of a score yet unknown."""

    __slots__ = ("bias", "factor", "inside")

    def __init__(self, factor=1.0, bias=0.0, inside=None):
        self.factor, self.bias, self.inside = factor, bias, inside

    def __getattr__(self, name):
        raise NotKnownError(name)

    def __add__(self, other):
        return Score(self.factor, self.bias + known(other), self.inside)

    def __sub__(self, other):
        return Score(self.factor, self.bias - known(other), self.inside)

    def __rsub__(self, other):
        return Score(-self.factor, known(other) - self.bias, self.inside)

    def __mul__(self, other):
        bias = self.bias if is_zero(self.bias) else self.bias * other  # none, whatever `other` is
        return Score(self.factor * known(other), bias, self.inside)

    def __truediv__(self, other):
        bias = self.bias if is_zero(self.bias) else self.bias / other
        return Score(self.factor / known(other), bias, self.inside)

    def __neg__(self):
        return Score(-self.factor, -self.bias, self.inside)

    def __pos__(self):
        return self

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self):
        if self.inside is not None or not is_zero(self.bias):
            raise NotKnownError("tanh")
        return Score(inside=self.factor)

    def float(self):
        return self

    def masked_fill(self, mask, value):
        return where(mask, value, self)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        if method != "__call__" or options:
            raise NotKnownError(ufunc.__name__)
        return done(ufunc.__name__, inputs)

    def __array_function__(self, function, types, arguments, options):
        return done(function.__name__, arguments, **options)

    @classmethod
    def __torch_function__(cls, function, types, arguments=(), options=None):
        return done(function.__name__, arguments, **(options or {}))


def known(value):
    """`value`, in which there is no score."""
    if isinstance(value, (Score, Position)):
        raise NotKnownError(type(value).__name__)
    return value


def is_zero(value):
    return isinstance(value, (int, float)) and value == 0


def where(condition, first, second):
    """Of two scores that differ by their biases, or a score and what hides it."""
    known(condition)
    scores = [value for value in (first, second) if isinstance(value, Score)]
    forms = {(number(score.factor), number(score.inside)) for score in scores}
    if not scores or len(forms) != 1:
        raise NotKnownError("where")
    biases = []
    for value in (first, second):
        if not isinstance(value, Score) and number(value) != -math.inf:
            raise NotKnownError("where")
        biases.append(value.bias if isinstance(value, Score) else -math.inf)
    if is_tensor(condition):
        torch = sys.modules["torch"]
        options = {"dtype": torch.float32, "device": condition.device}
        biases = [bias if is_tensor(bias) else torch.tensor(bias, **options) for bias in biases]
        bias = torch.where(condition, *biases)
    else:
        bias = numpy.where(condition, *biases)
    return Score(scores[0].factor, bias, scores[0].inside)


def number(value):
    """`value` as a float; None for None."""
    if value is None:
        return None
    if isinstance(value, (bool, numpy.bool_)) or math.prod(numpy.shape(value)) != 1:
        raise NotKnownError("no number")
    return float(value if isinstance(value, (int, float)) else as_array(value).reshape(()))


OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "tanh": lambda a: a.tanh(),
    "where": where,
}
NAMES = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "truediv": "div",
    "negative": "neg",
}


def done(name, arguments, **options):
    """A function of NumPy's or torch's of that name, to arguments one of which is a Score."""
    if name.endswith("_") and not name.endswith("__"):
        raise NotKnownError(name)  # it changes its first argument, which the stand-in does not
    name = name.strip("_")
    name = NAMES.get(name, name)
    if name not in OPERATIONS or options:
        raise NotKnownError(name)
    # A Score's own operator, not that of the array on its left, which would come back here.
    if len(arguments) == 2 and not isinstance(arguments[0], Score):
        other, score = arguments
        reflected = {"add": score.__radd__, "sub": score.__rsub__, "mul": score.__rmul__}
        if name not in reflected:
            raise NotKnownError(name)
        return reflected[name](other)
    return OPERATIONS[name](*arguments)


class Position:
    """q_idx or kv_idx, of which only the difference is known, as an array of all that there are."""

    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, sign, differences, shift=0):
        self.sign, self.differences, self.shift = sign, differences, shift

    def __getattr__(self, name):
        raise NotKnownError(name)

    def __add__(self, other):
        if type(other) is not int:
            raise NotKnownError("sum")
        return Position(self.sign, self.differences, self.shift + other)

    __radd__ = __add__

    def __sub__(self, other):
        """differences are kv_idx - q_idx."""
        if not isinstance(other, Position):
            return self + (-other if type(other) is int else other)
        if other.sign == self.sign:
            raise NotKnownError("difference")
        return self.sign * self.differences + (self.shift - other.shift)

    def __rsub__(self, other):
        raise NotKnownError("difference")

    def __lt__(self, other):
        return self - position(other) < 0

    def __le__(self, other):
        return self - position(other) <= 0

    def __gt__(self, other):
        return self - position(other) > 0

    def __ge__(self, other):
        return self - position(other) >= 0

    def __eq__(self, other):
        return self - position(other) == 0

    def __ne__(self, other):
        return self - position(other) != 0


def position(value):
    if not isinstance(value, Position):
        raise NotKnownError("comparison")
    return value


class Known(NamedTuple):
    """A score_mod that the library does itself: ``softcap(scale * score) + bias``, inside of a window.

    `bias` broadcasts to (B, H, Nq, Nkv), a view of few numbers if it is relative; or `bias_of` has that of a
    Tile, where all would be too much. `name` says what it was found to be. `trace` has the Score that the
    function makes of a Tile's indices, as it makes it: where `by_difference`, that of all differences.
    """

    name: str
    scale: float = 1.0
    softcap: float = 0.0
    bias: numpy.ndarray | None = None
    alibi_slopes: numpy.ndarray | None = None
    window: tuple[int, int] = (-1, -1)
    bias_of: object = None
    each: int = 0  # how many numbers that is for a row of all heads
    trace: object = None
    by_difference: bool = False


def recognised(score_mod, shape, torch_first=False):
    """The Known that `score_mod` is; None if it must be asked for every score."""
    if score_mod is None or 0 in shape:
        return Known("none")
    ways = [numpy.asarray]
    torch = sys.modules.get("torch")
    if hasattr(torch, "Tensor"):
        ways.insert(0 if torch_first or uses_torch(score_mod) else 1, torch.from_numpy)
    for way in ways:
        for found in (relative, by_index):
            try:
                return found(score_mod, way, shape)
            except MemoryError:
                raise
            except Exception:  # whatever a function of the caller's does with what it is given
                pass
    return None


def untouched(score_mod, array, b, h, q_idx, kv_idx):
    """The Score that `score_mod` makes of these indices."""
    indices = [b, h, q_idx, kv_idx]
    for place, index in enumerate(indices):
        indices[place] = (
            Position(index.sign, array(index.differences)) if isinstance(index, Position) else array(index)
        )
    score = score_mod(Score(), *indices)
    if not isinstance(score, Score):
        raise NotKnownError("no score")
    return score


def traced(score_mod, array, *indices):
    """The same with numbers and an array (four axes) of NumPy's."""
    score = untouched(score_mod, array, *indices)
    bias = as_array(score.bias)
    if bias.ndim > 4 or bias.dtype == bool:
        raise NotKnownError("bias")
    bias = bias.astype(numpy.float32).reshape((1,) * (4 - bias.ndim) + bias.shape)
    return Score(number(score.factor), bias, number(score.inside))


def relative(score_mod, way, shape):
    """Of a score_mod that looks at q_idx and kv_idx only by their difference."""
    trace = functools.partial(traced, score_mod, way)
    differences = numpy.arange(1 - shape[2], shape[3], dtype=numpy.int64).reshape(1, 1, 1, -1)
    b, h, _, _ = whole(shape)
    indices = b, h, Position(-1, differences), Position(1, differences)
    score = trace(*indices)
    require_elementwise(trace, score, shape, lambda b, h, q, kv: (b, h, 0, kv - q + shape[2] - 1))
    return form_of(score, shape, differences)._replace(
        trace=lambda tile: untouched(score_mod, way, *indices), by_difference=score.bias.shape[3] > 1
    )


def by_index(score_mod, way, shape):
    """Of a score_mod whose biases are looked up by indices."""
    trace = functools.partial(traced, score_mod, way)
    rows, keys = shape[2:]
    b, h, q_idx, kv_idx = whole(shape)
    few_shape = (*shape[:2], min(rows, 2), min(keys, 2))

    def trace_ends(b, h, end_of_rows, end_of_keys):
        return trace(b, h, end_of_rows * (rows - 1), end_of_keys * (keys - 1))

    def indices_of(tile):
        return b[tile.b], h[:, tile.h], q_idx[:, :, tile.rows], kv_idx

    def trace_tile(tile):
        return untouched(score_mod, way, *indices_of(tile))

    few = trace_ends(*whole(few_shape))
    each = math.prod(few.bias.shape[:2]) * (keys if few.bias.shape[3] > 1 else 1)
    if few.bias.shape[2] == 1 or each * rows <= MOST_BIASES:
        few = trace(b, h, q_idx, kv_idx)
        require_elementwise(trace, few, shape, lambda *at: at)
        return form_of(few, shape)._replace(trace=trace_tile, each=0 if few.bias.shape[2] == 1 else each)
    require_elementwise(trace_ends, few, few_shape, lambda *at: at)
    return form_of(few, few_shape)._replace(
        bias=None,
        bias_of=lambda tile: trace(*indices_of(tile)).bias,
        each=each,
        trace=trace_tile,
    )


def whole(shape):
    return grid([numpy.arange(size, dtype=numpy.int64) for size in shape])


def require_elementwise(trace, score, shape, place):
    """That of single indices it makes what it makes of arrays, without reducing them."""
    turns = max(PROBED)
    for turn in range(turns):
        # From the first to the last along each axis.
        at = tuple(
            turn * step % turns * (size - 1) // (turns - 1)
            for step, size in zip((1, 2, 3, 1), shape, strict=True)
        )
        alone = trace(*grid([numpy.array([index]) for index in at]))
        found = tuple(0 if size == 1 else i for i, size in zip(place(*at), score.bias.shape, strict=True))
        if (
            alone.bias.size != 1
            or (alone.factor, alone.inside) != (score.factor, score.inside)
            or not close(alone.bias[0, 0, 0, 0], score.bias[found])
        ):
            raise NotKnownError("not of each pair alone")


def form_of(score, shape, differences=None):
    """The Known of a Score; with `differences`, the last axis of its bias may be along them."""
    bias, names, options = score.bias, [], {}
    options["scale"] = score.factor
    if score.inside is not None:
        if score.factor == 0:
            raise NotKnownError("softcap 0")
        options |= {"scale": score.inside * score.factor, "softcap": abs(score.factor)}
        names.append("softcap")
    elif score.factor != 1:
        names.append("scale")
    sizes = shape if differences is None else (*shape[:2], 1, differences.size)
    if any(size not in (1, full) for size, full in zip(bias.shape, sizes, strict=True)):
        raise NotKnownError("bias")
    if differences is not None and bias.shape[3] > 1:
        differences = differences.reshape(-1)
        window, seen = window_of(bias, differences)
        if window != (-1, -1):
            options["window"] = window
            names.append("causal" if window == (-1, 0) else "window")
            bias = numpy.where(seen, bias, numpy.float32(0))
        slopes = slopes_of(bias[:, :, 0, seen], differences[seen])
        if not bias.any():
            bias = None
        elif slopes is not None:
            options["alibi_slopes"] = numpy.ascontiguousarray(numpy.broadcast_to(slopes, shape[:2]))
            names.append("alibi")
            bias = None
        else:
            names.append("relative")
            bias = by_difference(bias, shape)
    elif bias.size > 1 or bias.any():
        names.append("bias")
    else:
        bias = None
    return Known(" + ".join(names) or "none", bias=bias, **options)


def window_of(bias, differences):
    """The window outside of which `bias` is -inf, aligned top-left, and which differences are inside."""
    seen = ~(bias == -numpy.inf).all(axis=(0, 1, 2))
    within = differences[seen]
    if not len(within) or within[-1] - within[0] + 1 != len(within) or within[0] > 0 or within[-1] < 0:
        return (-1, -1), numpy.ones_like(seen)
    left = -1 if within[0] == differences[0] else int(-within[0])
    right = -1 if within[-1] == differences[-1] else int(within[-1])
    return (left, right), seen


def slopes_of(bias, differences):
    """(B or 1, H or 1) with which all of `bias` is ``-slope * abs(difference)``; None if it is not."""
    distance = numpy.abs(differences).astype(numpy.float32)
    if distance.max() == 0:
        return None
    farthest = numpy.argmax(distance)
    slopes = -bias[..., farthest] / distance[farthest]
    if not numpy.isfinite(slopes).all():
        return None
    return slopes if numpy.allclose(bias, -slopes[..., None] * distance, rtol=4e-7, atol=0) else None


def by_difference(bias, shape):
    """(B or 1, H or 1, Nq, Nkv) over the memory of `bias`, (B or 1, H or 1, 1, Nq + Nkv - 1)."""
    bias = numpy.ascontiguousarray(bias)[:, :, 0, shape[2] - 1 :]
    strides = (*bias.strides[:2], -bias.strides[2], bias.strides[2])
    return numpy.lib.stride_tricks.as_strided(bias, (*bias.shape[:2], *shape[2:]), strides, writeable=False)


class EvaluatedScore(Evaluated):
    """A score_mod as a function of scores and indices."""

    def __init__(self, function, sizes, torch_first=False):
        super().__init__(function, sizes, torch_first, "score_mod")

    def arguments(self, indices):
        b, h, q_idx, kv_idx = grid(indices)
        return (numpy.sin(b + 2.0 * h + 3.0 * q_idx + 5.0 * kv_idx).astype(numpy.float32),)

    def depends_on(self, axis):
        return True

    def results(self, *indices, arguments=None):
        result = super().results(*indices, arguments=arguments)
        if result.dtype.kind not in "fiu":
            raise TypeError(f"returned {result.dtype}, expected numbers")
        return result

    def __call__(self, scores, *indices):
        try:
            result = self.results(*indices, arguments=(scores,))
        except MemoryError:
            raise
        except Exception as error:  # whatever a function of the caller's raises
            raise self.failure(error, indices) from error
        return numpy.broadcast_to(result.astype(numpy.float32, copy=False), scores.shape)

    def differentiated(self, scores, *indices, captures=None):
        """The results, and the function that makes of their gradient that of `scores`.

        It also adds to the gradients of `captures`, a mfa.torch._captures.Substituted.
        """
        torch = sys.modules["torch"]
        way = of_tensors if self.way is with_tensors else of_scalar_tensors
        with torch.enable_grad(), contextlib.nullcontext() if captures is None else captures:
            scores = torch.from_numpy(scores).requires_grad_()
            results = way(self.function, (scores,), indices)
            results = torch.as_tensor(results, dtype=torch.float32, device=scores.device)
            results = results.broadcast_to(scores.shape)

        def backward(gradient):
            if not results.requires_grad:
                return numpy.zeros_like(gradient)
            others = () if captures is None else captures.leaves
            [result, *rest] = torch.autograd.grad(
                results, (scores, *others), torch.from_numpy(gradient), allow_unused=True
            )
            if captures is not None:
                captures.add(rest)
            return numpy.zeros_like(gradient) if result is None else result.numpy()

        return results.detach().numpy(), backward

    def has_derivative(self):
        """Whether it is made of torch's operations."""
        if self.way is with_ndarrays:
            return False
        try:
            self.differentiated(numpy.zeros((1, 1, 1, 1), numpy.float32), *numpy.zeros((4, 1), numpy.int64))
        except MemoryError:
            raise
        except Exception:  # as where it makes an array of NumPy's of a tensor
            return False
        return True

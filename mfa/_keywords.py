"""Checks of keyword arguments, shared by all surfaces. Each error names the argument, its value and what was
expected."""

import operator

import numpy

from mfa._gradients import Gradients
from mfa._numpy import BFLOAT16, as_ndarray

ALIGNMENTS = {"top-left": 1, "bottom-right": 2}
PRECISIONS = {"float16": 0, "bfloat16": 1, "float32": 2}
DEFAULT_PRECISION = -1
LARGEST_FLOAT32 = float(numpy.finfo(numpy.float32).max)


def integer(value, name, expected="an integer"):
    """`value` as an int. Truth values and arrays, even of one element, are no integers."""
    if type(value) is int:
        return value
    if _is_scalar(value):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name}: {value!r}, expected {expected}")


def _is_scalar(value):
    if isinstance(value, bool | numpy.bool_):
        return False
    return isinstance(value, numpy.generic) or not hasattr(value, "shape")


def heads_first(layout):
    """Whether `layout` puts heads before rows."""
    if not isinstance(layout, str):
        raise TypeError(f"layout: {layout!r}, expected 'bshd' or 'bhsd'")
    if layout == "bshd":
        return False
    if layout == "bhsd":
        return True
    raise ValueError(f"layout: {layout!r}, expected 'bshd' or 'bhsd'")


def flag(value, name):
    """`value` as a bool, which it must be already."""
    if value is True or value is False:
        return value
    if isinstance(value, numpy.bool_):
        return bool(value)
    raise TypeError(f"{name}: {value!r}, expected a bool")


def causal_alignment(causal, alignment):
    """Whether to mask causally, and the alignment's code in mfa.h."""
    if alignment is not None and (not isinstance(alignment, str) or alignment not in ALIGNMENTS):
        raise ValueError(f"alignment: {alignment!r}, expected None, 'top-left' or 'bottom-right'")
    if isinstance(causal, numpy.bool_):
        causal = bool(causal)
    if causal is None or causal is False:
        return False, ALIGNMENTS[alignment or "bottom-right"]
    if causal is True:
        causal = "bottom-right"
    if not isinstance(causal, str) or causal not in ALIGNMENTS:
        raise ValueError(f"causal: {causal!r}, expected None, a bool, 'top-left' or 'bottom-right'")
    if alignment is not None and alignment != causal:
        raise ValueError(f"alignment: {alignment!r}, expected {causal!r} or None as causal asks")
    return True, ALIGNMENTS[causal]


def window_bounds(window, name="window"):
    """(left, right) as ints."""
    try:
        left, right = window
        left, right = integer(left, name), integer(right, name)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {window!r}, expected two integers (left, right)") from None
    if not (-1 <= left < 2**63 and -1 <= right < 2**63):
        raise ValueError(f"{name}: {window!r}, expected integers from 0 up, or -1 for no bound")
    return left, right


def real(value, name):
    """`value` as a float that float32 can hold."""
    if type(value) is not float:
        try:
            number = float(value) if _is_scalar(value) and not isinstance(value, str | bytes) else None
        except TypeError:
            number = None
        except OverflowError:
            raise ValueError(f"{name}: beyond any float, expected a finite float32 number") from None
        if number is None:
            raise TypeError(f"{name}: {value!r}, expected a real number")
        value = number
    if not abs(value) <= LARGEST_FLOAT32:
        raise ValueError(f"{name}: {value!r}, expected a finite float32 number")
    return value


def softmax_scale(value, name="softmax_scale"):
    return None if value is None else real(value, name)


def softcap(value):
    value = real(value, "softcap")
    if value < 0:
        raise ValueError(f"softcap: {value!r}, expected 0 (off) or a positive number")
    if value and not numpy.float32(value):
        raise ValueError(f"softcap: {value!r}, which is 0 in float32; expected 0 (off) or a larger number")
    return value


def dropout_p(value):
    value = real(value, "dropout_p")
    if not 0 <= value < 1:
        raise ValueError(f"dropout_p: {value!r}, expected at least 0 and less than 1")
    if value and numpy.float32(value) == 1:
        raise ValueError(f"dropout_p: {value!r}, which is 1 in float32; expected less")
    return value


def word(value, name):
    """`value` as an int of 64 bits without a sign."""
    value = integer(value, name)
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: {value!r}, expected 0 to {2**64 - 1}")
    return value


def wanted(value):
    """Names of gradients as a set, or None for all that there are."""
    if value is None:
        return None
    expected = "expected None or some of " + ", ".join(map(repr, Gradients._fields))
    if isinstance(value, str):
        raise TypeError(f"wanted: {value!r}, {expected}")
    try:
        names = list(value)
    except TypeError:
        raise TypeError(f"wanted: {value!r}, {expected}") from None
    for name in names:
        if not isinstance(name, str) or name not in Gradients._fields:
            raise ValueError(f"wanted: names {name!r}, {expected}")
    return frozenset(names)


def intermediate_precision(value):
    """Its code in mfa.h."""
    if value is None:
        return DEFAULT_PRECISION
    if not isinstance(value, str):
        raise TypeError(f"intermediate_precision: {value!r}, expected None or 'float32'")
    if value == "float32":
        return PRECISIONS["float32"]
    raise ValueError(f"intermediate_precision: {value!r}, expected None or 'float32'")


def out_dtype(value):
    """Its code in mfa.h. `value` is a name, or anything that NumPy or torch calls a dtype."""
    if value is None:
        return DEFAULT_PRECISION
    # torch's dtypes are known by their names alone, which spares importing torch.
    name = str(value).removeprefix("torch.") if type(value).__module__ == "torch" else None
    if name is None:
        try:
            dtype = numpy.dtype(value)
            name = dtype.name if dtype.isnative else None
        except TypeError:
            name = None
    if name not in PRECISIONS:
        raise TypeError(f"out_dtype: {value!r}, expected float32, float16 or bfloat16 in native byte order")
    return PRECISIONS[name]


def alibi_slopes(value):
    """Slopes as a float32 ndarray (batch or 1, heads)."""
    if value is None:
        return None
    slopes = as_ndarray(value, "alibi_slopes")
    if slopes.dtype != numpy.float32:
        raise TypeError(f"alibi_slopes: dtype {slopes.dtype}, expected float32")
    if slopes.ndim not in (1, 2):
        raise ValueError(f"alibi_slopes: {slopes.ndim} dimensions, expected (heads) or (batch, heads)")
    return _float32_rows(slopes)


def sinks(value):
    """Sink logits as a float32 ndarray (1, heads)."""
    if value is None:
        return None
    logits = as_ndarray(value, "sinks")
    if logits.dtype.kind != "f" and logits.dtype != BFLOAT16:
        raise TypeError(f"sinks: dtype {logits.dtype}, expected a floating one")
    if logits.ndim != 1:
        raise ValueError(f"sinks: {logits.ndim} dimensions, expected (heads)")
    return _float32_rows(logits)


def _float32_rows(numbers):
    return numpy.require(numpy.atleast_2d(numbers), dtype=numpy.float32, requirements="A")


def require_default(function, name, value, default):
    """Refuse an argument that would change the result and is not implemented."""
    if value is default:
        return
    try:
        is_default = bool(value == default)
    except (TypeError, ValueError, RuntimeError):
        is_default = False
    if not is_default:
        raise NotImplementedError(
            f"{name}: not implemented by mfa.{function}, expected its default, {default!r}"
        )

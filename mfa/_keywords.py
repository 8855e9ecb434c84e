"""Checks of keyword arguments, shared by all surfaces. Each error names the argument, its value and what was
expected."""

import operator

import numpy

from mfa._gradients import Gradients
from mfa._messages import shown

ALIGNMENTS = {"top-left": 1, "bottom-right": 2}
PRECISIONS = {"float16": 0, "bfloat16": 1, "float32": 2}
DEFAULT_PRECISION = -1
COMPUTE_MODES = {"exact": 0, "int8": 1}
BOOLS = (bool, numpy.bool_)
NO_NUMBERS = (*BOOLS, str, bytes, bytearray)
LARGEST_FLOAT32 = float(numpy.finfo(numpy.float32).max)
# Floats that float32 rounds to 0 and 1: torch.compile can follow comparisons, but not NumPy's rounding.
LARGEST_ZERO = 2.0**-150
SMALLEST_ONE = 1 - 2.0**-25


def integer(value, name, expected="an integer"):
    """`value` as an int. Truth values and arrays, even of one element, are no integers."""
    if type(value) is int:
        return value
    number = _converted(value, operator.index)
    if number is None:
        raise TypeError(f"{name}: {shown(value)}, expected {expected}")
    return int.__index__(number)


def unwrapped(value):
    """The integer in an array of no axes, as `lengths.max()` is; anything else as it is."""
    if isinstance(value, int):  # of which torch.compile, that has sizes as symbols, can ask no more
        return value
    try:
        return operator.index(value) if value.shape == () else value
    except MemoryError:
        raise
    except Exception:  # whatever a type of the caller's raises where it makes no number
        return value


def _converted(value, convert):
    """What `convert` makes of a scalar; None of anything else."""
    if isinstance(value, NO_NUMBERS):
        return None
    try:
        if isinstance(value, numpy.generic) or not hasattr(value, "shape"):
            return convert(value)
    except (MemoryError, OverflowError):
        raise
    except Exception:  # whatever a type of the caller's raises where it makes no number
        pass
    return None


def text_of(value):
    """`value` as a plain str; None if it is no string."""
    return str.__str__(value) if isinstance(value, str) else None


def heads_first(layout):
    """Whether `layout` puts heads before rows."""
    text = layout if type(layout) is str else text_of(layout)
    if text not in ("bshd", "bhsd"):
        error = TypeError if text is None else ValueError
        raise error(f"layout: {shown(layout)}, expected 'bshd' or 'bhsd'")
    return text == "bhsd"


def flag(value, name):
    """`value` as a bool, which it must be already."""
    if value is True or value is False:
        return value
    if isinstance(value, numpy.bool_):
        return bool(value)
    raise TypeError(f"{name}: {shown(value)}, expected a bool")


def causal_alignment(causal, alignment):
    """Whether to mask causally, and the alignment's code in mfa.h."""
    if alignment is not None:
        if text_of(alignment) not in ALIGNMENTS:
            raise ValueError(f"alignment: {shown(alignment)}, expected None, 'top-left' or 'bottom-right'")
        alignment = text_of(alignment)
    if causal is None or (isinstance(causal, BOOLS) and not causal):
        return False, ALIGNMENTS[alignment or "bottom-right"]
    chosen = "bottom-right" if isinstance(causal, BOOLS) else text_of(causal)
    if chosen not in ALIGNMENTS:
        raise ValueError(f"causal: {shown(causal)}, expected None, a bool, 'top-left' or 'bottom-right'")
    if alignment is not None and alignment != chosen:
        raise ValueError(f"alignment: {alignment!r}, expected {chosen!r} or None as causal asks")
    return True, ALIGNMENTS[chosen]


def window(value, name):
    """(left, right) as ints."""
    try:
        left, right = value
        left, right = integer(left, name), integer(right, name)
    except MemoryError:
        raise
    except Exception:
        raise TypeError(f"{name}: {shown(value)}, expected two integers (left, right)") from None
    if not (-1 <= left < 2**63 and -1 <= right < 2**63):
        raise ValueError(f"{name}: {shown(value)}, expected integers from 0 up, or -1 for no bound")
    return left, right


def real(value, name):
    """`value` as a float that float32 can hold."""
    if type(value) is not float:
        try:
            number = _converted(value, float)
        except OverflowError:
            raise ValueError(f"{name}: beyond any float, expected a finite float32 number") from None
        if number is None:
            raise TypeError(f"{name}: {shown(value)}, expected a real number")
        value = number
    if not abs(value) <= LARGEST_FLOAT32:
        raise ValueError(f"{name}: {shown(value)}, expected a finite float32 number")
    return value


def softcap(value):
    value = real(value, "softcap")
    if value < 0:
        raise ValueError(f"softcap: {shown(value)}, expected 0 (off) or a positive number")
    if 0 < value <= LARGEST_ZERO:
        raise ValueError(
            f"softcap: {shown(value)}, which is 0 in float32; expected 0 (off) or a larger number"
        )
    return value


def dropout_p(value):
    value = real(value, "dropout_p")
    if not 0 <= value < 1:
        raise ValueError(f"dropout_p: {shown(value)}, expected at least 0 and less than 1")
    if value >= SMALLEST_ONE:
        raise ValueError(f"dropout_p: {shown(value)}, which is 1 in float32; expected less")
    return value


def word(value, name):
    """`value` as an int of 64 bits without a sign."""
    if type(value) is not int:
        value = integer(value, name)
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: {shown(value)}, expected 0 to {2**64 - 1}")
    return value


def count(value, name):
    """`value` as an int from 0 up that 64 bits with a sign can hold."""
    value = integer(value, name)
    if not 0 <= value < 2**63:
        raise ValueError(f"{name}: {shown(value)}, expected 0 or more")
    return value


def wanted(value):
    """Names of gradients as a set, or None for all that there are."""
    if value is None:
        return None
    expected = "expected None or some of " + ", ".join(map(repr, Gradients._fields))
    if isinstance(value, str):
        raise TypeError(f"wanted: {shown(value)}, {expected}")
    names = []
    try:
        for name in value:
            names.append(name)
            if text_of(name) not in Gradients._fields:
                break
    except MemoryError:
        raise
    except Exception:
        raise TypeError(f"wanted: {shown(value)}, {expected}") from None
    if names and text_of(names[-1]) not in Gradients._fields:
        raise ValueError(f"wanted: names {shown(names[-1])}, {expected}")
    return frozenset(map(text_of, names))


def intermediate_precision(value):
    """Its code in mfa.h."""
    if value is None:
        return DEFAULT_PRECISION
    text = text_of(value)
    if text != "float32":
        error = TypeError if text is None else ValueError
        raise error(f"intermediate_precision: {shown(value)}, expected None or 'float32'")
    return PRECISIONS[text]


def compute_mode(value):
    """Its code in mfa.h."""
    text = text_of(value)
    if text not in COMPUTE_MODES:
        error = TypeError if text is None else ValueError
        raise error(f"compute_mode: {shown(value)}, expected 'exact' or 'int8'")
    return COMPUTE_MODES[text]


def out_dtype(value, argument="out_dtype"):
    """Its code in mfa.h. `value` is a name, or anything that NumPy or torch calls a dtype."""
    if value is None:
        return DEFAULT_PRECISION
    order = ""
    try:
        # torch's dtypes are known by their names alone, which spares importing torch.
        if type(value).__module__ == "torch":
            name = str(value).removeprefix("torch.")
        else:
            dtype = numpy.dtype(value)
            name = dtype.name if dtype.isnative else None
            order = "" if dtype.isnative else " in native byte order"
    except MemoryError:
        raise
    except Exception:  # whatever a type of the caller's raises where it makes no dtype
        name = None
    if name not in PRECISIONS:
        raise TypeError(f"{argument}: {shown(value)}, expected float32, float16 or bfloat16{order}")
    return PRECISIONS[name]

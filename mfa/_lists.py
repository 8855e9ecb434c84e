"""Lists of lengths and places, where Python looks into them itself."""

import numpy

from mfa._memory import as_ndarray
from mfa._messages import brief

INT32 = numpy.dtype(numpy.int32)


def int32_list(array, name, ndim=1):
    """An ndarray over the memory of `array`, which has int32 and that many axes."""
    numbers = as_ndarray(array, name)
    if numbers.dtype != INT32:
        raise TypeError(f"{name}: dtype {brief(str(numbers.dtype))}, expected int32 in native byte order")
    if numbers.ndim != ndim:
        raise ValueError(f"{name}: {numbers.ndim} dimensions, expected {ndim}")
    return numbers

"""Lists of lengths and places, where Python looks into them itself."""

import numpy

from mfa._dtypes import wrong_dtype
from mfa._memory import as_ndarray

INT32 = numpy.dtype(numpy.int32)


def int32_list(array, name, ndim=1):
    """An ndarray over the memory of `array`, which has int32 and that many axes."""
    numbers = as_ndarray(array, name)
    if numbers.dtype != INT32:
        raise TypeError(wrong_dtype(name, array, numbers.dtype, "int32"))
    if numbers.ndim != ndim:
        raise ValueError(f"{name}: {numbers.ndim} dimensions, expected {ndim}")
    return numbers

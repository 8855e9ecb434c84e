"""Arrays of the dtypes that calls take."""

import ml_dtypes
import numpy

DTYPES = {"float32": numpy.float32, "float16": numpy.float16, "bfloat16": ml_dtypes.bfloat16}


def normal(generator: numpy.random.Generator, shape: tuple[int, ...], dtype: str) -> numpy.ndarray:
    return generator.standard_normal(shape, dtype=numpy.float32).astype(DTYPES[dtype])

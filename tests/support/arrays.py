"""Arrays of the size that tests of the Python package use, and what it is for two to be the same."""

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SHAPE = (2, 5, 3, 8)


def same(actual, expected):
    return actual.dtype == expected.dtype and np.array_equal(actual, expected)

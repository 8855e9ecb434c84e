"""What tests of the Python package start from."""

import numpy as np
import pytest
from support.arrays import SHAPE

import mfa


@pytest.fixture
def operands(rng):
    return tuple(rng.standard_normal(SHAPE).astype(np.float32) for _ in range(3))


@pytest.fixture
def fresh():
    with mfa.Context() as context:
        yield context

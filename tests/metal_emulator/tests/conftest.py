"""A built emulator, and memory of its device."""

import os
import sys

import numpy as np
import pytest
from metal_emulator import driver
from support.once import made_once
from support.tools import require_metal_emulator


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    require_metal_emulator()
    folder = made_once(tmp_path_factory, "metal_emulator", driver.build)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAL_EMULATOR_HOME", str(driver.HOME))
        patch.setenv("METAL_EMULATOR_PYTHON", sys.executable)
        if "METAL_EMULATOR_CACHE" not in os.environ:
            patch.setenv("METAL_EMULATOR_CACHE", str(folder / "cache"))
        yield driver.Emulator(folder / driver.LIBRARY)


@pytest.fixture
def memory(emulator):
    """Arrays in device memory, with these values or, given a shape, unwritten."""
    arrays = []

    def make(values, dtype=None):
        values = values if isinstance(values, tuple) else np.asarray(values, dtype)
        shape, dtype = (values, dtype) if isinstance(values, tuple) else (values.shape, values.dtype)
        arrays.append(emulator.memory(shape, dtype or np.float32))
        if not isinstance(values, tuple):
            arrays[-1][...] = values
        return arrays[-1]

    yield make
    for array in arrays:
        emulator.free(array)

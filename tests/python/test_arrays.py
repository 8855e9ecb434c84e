"""What counts as an array, and what kind of array comes back."""

import array as array_module
import ctypes

import numpy as np
import pytest
from support.arrays import BFLOAT16, SHAPE, same

import mfa


def test_memoryview_gives_what_ndarray_gives(operands):
    views = [memoryview(bytearray(x.tobytes())).cast("f", SHAPE) for x in operands]
    result = mfa.attention(*views)
    assert isinstance(result, np.ndarray)
    assert same(result, mfa.attention(*operands))


def test_array_array_through_memoryview(operands):
    numbers = [array_module.array("f", x.ravel().tolist()) for x in operands]
    views = [memoryview(x).cast("B").cast("f", SHAPE) for x in numbers]
    assert same(mfa.attention(*views), mfa.attention(*operands))


def test_array_array_as_slopes_and_sinks(operands):
    numbers = array_module.array("f", [0.5, 0.25, 0.125])
    expected = mfa.attention(*operands, alibi_slopes=np.array(numbers), sinks=np.array(numbers))
    assert same(mfa.attention(*operands, alibi_slopes=numbers, sinks=numbers), expected)


def test_ctypes_arrays_have_no_strides(operands):
    """They leave Py_buffer.strides NULL, which stands for C order."""
    arrays = [np.ctypeslib.as_ctypes(x.copy()) for x in operands]
    mask = (ctypes.c_bool * 5 * 5)(*((ctypes.c_bool * 5)(*row) for row in np.tri(5, dtype=bool).tolist()))
    memory = np.ctypeslib.as_ctypes(np.zeros(SHAPE, np.float32))
    assert mfa.attention(*arrays, mask=mask, out=memory) is memory
    assert same(np.asarray(memory), mfa.attention(*operands, mask=np.tri(5, dtype=bool)))


def test_ndarray_subclass_is_an_array(operands):
    class Tagged(np.ndarray):
        pass

    query, key, value = operands
    result = mfa.attention(query.view(Tagged), key, value)
    assert same(result, mfa.attention(query, key, value))


def test_dtype_with_metadata_is_float32(operands):
    query, key, value = operands
    tagged = query.view(np.dtype(np.float32, metadata={"unit": "m"}))
    assert np.array_equal(mfa.attention(tagged, key, value), mfa.attention(query, key, value))


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float64], ids=str)
def test_sinks_of_any_floating_dtype(operands, dtype):
    exact = np.array([0.5, -2, 1], np.float32)
    assert same(mfa.attention(*operands, sinks=exact.astype(dtype)), mfa.attention(*operands, sinks=exact))

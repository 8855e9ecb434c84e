"""Small kernels give right answers, in every order of threads and in both builds."""

import numpy as np
import pytest
from metal_emulator.driver import Bytes
from metal_emulator.tests.toys import EVERY_MODE, EVERY_ORDER, LANGUAGE, MATRIX_TYPES, TOYS, run_matmul, shape


@EVERY_MODE
@EVERY_ORDER
def test_copy(emulator, memory, mode, order):
    source, result = memory(np.arange(100, dtype=np.float32)), memory((100,))
    copy = emulator.compile(TOYS, mode=mode).pipeline("copy")
    copy.run({0: source, 1: result, 2: shape(columns=100)}, 4, 32, order=order, seed=1)
    np.testing.assert_array_equal(result, source)


@EVERY_MODE
@EVERY_ORDER
@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_row_sum(emulator, memory, mode, order, threads):
    source, result = memory(np.arange(5 * 70, dtype=np.float32).reshape(5, 70)), memory((5,))
    row_sum = emulator.compile(TOYS, mode=mode).pipeline("row_sum")
    row_sum.run({0: source, 1: result, 2: shape(columns=70)}, 5, threads, order=order, seed=2)
    np.testing.assert_array_equal(result, source.sum(1))


@EVERY_MODE
@EVERY_ORDER
def test_transpose(emulator, memory, mode, order):
    source, result = memory(np.arange(64, dtype=np.float32).reshape(8, 8)), memory((8, 8))
    transpose = emulator.compile(TOYS, mode=mode).pipeline("transpose")
    transpose.run({0: source, 1: result}, 1, (8, 8), threadgroup={0: 256}, order=order, seed=3)
    np.testing.assert_array_equal(result, source.T)


@EVERY_MODE
@EVERY_ORDER
@pytest.mark.parametrize("kind", MATRIX_TYPES)
def test_matmul(emulator, memory, mode, order, kind):
    result, expected = run_matmul(emulator, memory, TOYS, kind, mode, order)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@EVERY_MODE
def test_lane_map(emulator, memory, mode):
    source, result = memory(np.arange(64, dtype=np.float32).reshape(8, 8)), memory((8, 8))
    emulator.compile(TOYS, mode=mode).pipeline("lane_map").run({0: source, 1: result}, 1, 32)
    np.testing.assert_array_equal(result, source)


@EVERY_MODE
@EVERY_ORDER
def test_atomics_count_across_threadgroups(emulator, memory, mode, order):
    values = np.arange(128, dtype=np.uint32) % 5
    counts = memory(np.zeros(5, np.uint32))
    histogram = emulator.compile(TOYS, mode=mode).pipeline("histogram")
    histogram.run({0: memory(values), 1: counts}, 4, 32, order=order, seed=6)
    np.testing.assert_array_equal(counts, np.bincount(values))


@EVERY_MODE
@pytest.mark.parametrize("visible", [0, 1, 20, 32])
def test_masked_softmax(emulator, memory, mode, visible):
    scores, result = memory(np.linspace(-4, 4, 32, dtype=np.float32)), memory((32,))
    softmax = emulator.compile(TOYS, mode=mode).pipeline("masked_softmax")
    softmax.run({0: scores, 1: result, 2: Bytes(np.uint32(visible))}, 1, 32)
    weights = np.where(np.arange(32) < visible, np.exp2(scores), 0)
    np.testing.assert_allclose(result, weights / max(weights.sum(), 1e-30), rtol=1e-5)


@EVERY_MODE
def test_the_language(emulator, memory, mode):
    source, result = memory(np.array([1, 2], np.float32)), memory((8,))
    emulator.compile(LANGUAGE, mode=mode).pipeline("words").run({0: source, 1: result}, 1, 32)
    after_two = np.nextafter(np.float32(2), np.float32(3))
    expected = [3 + 6, 1.5 + 1, 8 + 1 + 1, 2 + 2 + 4, after_two, 5 + 7 + 31, 1 + 1 + 3, 3 + 40 + 8 + 7 + 2]
    np.testing.assert_array_equal(result, np.array(expected, np.float32))

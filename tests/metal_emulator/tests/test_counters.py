"""Counters equal counts by hand."""

import numpy as np
from metal_emulator.driver import Bytes
from metal_emulator.tests.toys import HEADER, TOYS, run_matmul


def test_counters_equal_a_count_by_hand(emulator, memory):
    emulator.reset_counters()
    run_matmul(emulator, memory, TOYS, "half", sizes=(16, 16, 24))
    counters = emulator.counters()
    tiles, steps = 4, 3
    assert counters.launches == 1
    assert counters.matrix_multiplies == tiles * steps
    assert counters.threadgroup_barriers == tiles * steps * 2
    assert counters.simdgroup_barriers == tiles
    assert counters.shuffles == counters.exponentials == 0
    assert list(counters.buffer_bytes_loaded[:2]) == [tiles * steps * 128] * 2
    assert counters.buffer_bytes_stored[2] == 16 * 16 * 4 == counters.device_bytes_stored
    assert counters.device_bytes_loaded == 2 * tiles * steps * 128
    assert counters.buffer_bytes_loaded[3] > 0  # the shape, which is `constant`
    assert counters.threadgroup_bytes_stored == tiles * (steps * 2 * 128 + 256)
    assert counters.threadgroup_bytes_loaded == tiles * (steps * 2 * 128 + 256)
    assert counters.threadgroup_bytes_allocated == 2 * 128 + 256


def test_exponentials_and_shuffles_are_counted(emulator, memory):
    emulator.reset_counters()
    buffers = {0: memory(np.zeros(64, np.float32)), 1: memory((64,)), 2: Bytes(np.uint32(32))}
    softmax = emulator.compile(TOYS, mode="fast").pipeline("masked_softmax")
    softmax.run(buffers, 2, 32)
    softmax.run(buffers, 2, 32)
    counters = emulator.counters()
    assert (counters.launches, counters.exponentials, counters.shuffles) == (2, 2 * 64, 2 * 2 * 2)
    assert counters.device_bytes_loaded == 0  # the fast build does not see accesses


def test_constant_arguments_are_no_device_traffic(emulator, memory):
    text = f"""{HEADER}
constant float table[2] = {{1, 2}};
kernel void k(constant float *a [[buffer(0)]], device const float *b [[buffer(1)]],
              device float *c [[buffer(2)]], uint i [[thread_position_in_grid]]) {{
    c[i] = a[i] + b[i] + table[i & 1];
}}"""
    buffers = {0: memory(np.ones(32, np.float32)), 1: memory(np.ones(32, np.float32)), 2: memory((32,))}
    emulator.reset_counters()
    emulator.compile(text).pipeline("k").run(buffers, 1, 32)
    counters = emulator.counters()
    assert list(counters.buffer_bytes_loaded[:3]) == [128, 128, 0]
    assert counters.device_bytes_loaded == counters.device_bytes_stored == 128

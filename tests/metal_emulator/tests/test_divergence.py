"""Planted bugs of divergence are caught: barriers and simdgroup operations that some threads miss."""

import numpy as np
import pytest
from metal_emulator.driver import Fault
from metal_emulator.tests.toys import EVERY_MODE, EVERY_ORDER, TOYS, caught, planted, run_matmul, shape

BARRIER = "        partial[simdgroup] = sum;\n    threadgroup_barrier(mem_flags::mem_threadgroup);\n"


@EVERY_MODE
@EVERY_ORDER
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            BARRIER,
            BARRIER.replace("    threadgroup", "    if (thread_index != 40) threadgroup"),
            "threadgroup_barrier at program_source",
        ),
        (
            BARRIER,
            BARRIER.replace("    threadgroup", "    if (lane > 3) return;\n    threadgroup"),
            "has returned",
        ),
        ("    sum = simd_sum(sum);", "    if (lane != 9)\n        sum = simd_sum(sum);", "simd_sum"),
        (
            "    sum = simd_sum(sum);",
            "    if (lane < 16)\n        sum = simd_sum(sum);\n    else\n        sum = simd_sum(sum);",
            "simd_sum at .*simd_sum at",
        ),
    ],
    ids=["barrier", "early return", "simd operation", "simd operation in both branches"],
)
def test_divergence(emulator, memory, mode, order, old, new, words):
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((1,)), 2: shape(columns=64)}
    with caught("divergence", words):
        emulator.compile(planted(old, new), mode=mode).pipeline("row_sum").run(buffers, 1, 64, order=order)


@EVERY_MODE
@pytest.mark.parametrize(
    "old",
    [
        "        simdgroup_load(x, left, 8);",
        "        simdgroup_multiply_accumulate(sum, x, y, sum);",
        "    simdgroup_store(sum, product, 8);",
    ],
)
def test_matrix_operations_in_divergent_flow(emulator, memory, mode, old):
    source = planted(old, old.replace("simdgroup", "if (lane != 3) simdgroup", 1))
    with pytest.raises(Fault) as fault:
        run_matmul(emulator, memory, source, mode=mode)
    assert fault.value.kind == "divergence"
    assert "simdgroup_" in str(fault.value)


def test_matrices_need_a_full_simdgroup(emulator, memory):
    with caught("divergence", "needs all 32"):
        emulator.compile(TOYS).pipeline("lane_map").run({0: memory((64,)), 1: memory((64,))}, 1, 31)


def test_a_wrong_lane_map_gives_wrong_values(emulator, memory):
    source = planted("(quad & 4) + (lane / 2) % 4", "lane / 4").replace(
        "(quad & 2) * 2 + (lane % 2) * 2", "(lane % 4) * 2"
    )
    values, result = memory(np.arange(64, dtype=np.float32).reshape(8, 8)), memory((8, 8))
    emulator.compile(source).pipeline("lane_map").run({0: values, 1: result}, 1, 32)
    assert not np.array_equal(result, values)

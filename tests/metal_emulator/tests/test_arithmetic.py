"""What a GPU's arithmetic may do: fast math, inexact functions, denormals, traps."""

import numpy as np
import pytest
from metal_emulator import driver
from metal_emulator.driver import Bytes
from metal_emulator.tests.toys import EVERY_MODE, HEADER, MATRIX_TYPES, TOYS, caught


@EVERY_MODE
@pytest.mark.parametrize("kind", ["half", "bfloat"])
def test_each_operation_rounds_to_its_type(emulator, memory, mode, kind):
    source = f"""{HEADER}
kernel void k(device const {kind} *x [[buffer(0)]], device {kind} *y [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {{
    y[i] = x[i] * x[i] * x[i] + x[i];
}}"""
    dtype = MATRIX_TYPES[kind]
    x, result = memory(np.linspace(0.1, 3, 32).astype(dtype)), memory((32,), dtype)
    emulator.compile(source, mode=mode).pipeline("k").run({0: x, 1: result}, 1, 32)
    np.testing.assert_array_equal(result, x * x * x + x)


@EVERY_MODE
@pytest.mark.parametrize(("kind", "kept"), [("float", False), ("half", True)])
def test_denormals_are_kept_of_halves_only(emulator, memory, mode, kind, kept):
    source = f"""{HEADER}
kernel void k(device const {kind} *x [[buffer(0)]], device {kind} *y [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {{
    y[i] = x[i] * {kind}(2) + x[i + 1] * {kind}(0.5f);
}}"""
    dtype = np.dtype(MATRIX_TYPES[kind])
    least, smallest = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    for x in ([smallest * dtype.type(4), 0], [0, least]):
        x, result = np.array(x, dtype), memory((1,), dtype)
        emulator.compile(source, mode=mode).pipeline("k").run({0: memory(x), 1: result}, 1, 1)
        assert result[0] == (x[0] * dtype.type(2) + x[1] * dtype.type(0.5) if kept else 0)


@EVERY_MODE
def test_fast_math_breaks_infinities(emulator, memory, mode):
    visible = 20
    scores, result = memory(np.linspace(-4, 4, 32, dtype=np.float32)), memory((32,))
    softmax = emulator.compile(TOYS, mode=mode, math="fast").pipeline("masked_softmax")
    softmax.run({0: scores, 1: result, 2: Bytes(np.uint32(visible))}, 1, 32)
    weights = np.where(np.arange(32) < visible, np.exp2(scores), 0)
    assert not np.allclose(result, weights / max(weights.sum(), 1e-30), rtol=1e-3)


def test_fast_math_breaks_nan(emulator, memory):
    text = HEADER + (
        "kernel void k(device float *a [[buffer(0)]]) {\n"
        "    a[1] = isnan(a[0]) ? 1.0f : 2.0f;\n    a[2] = a[0] == a[0];\n}"
    )
    for math, expected in [("safe", [1, 0]), ("relaxed", [1, 0]), ("fast", [2, 1])]:
        values = memory(np.array([np.nan, 0, 0], np.float32))
        emulator.compile(text, math=math).pipeline("k").run({0: values}, 1, 1)
        np.testing.assert_array_equal(values[1:], expected)


def test_fast_functions_can_be_perturbed(emulator, memory):
    text = f"""{HEADER}
kernel void k(device const float *x [[buffer(0)]], device float *fast_result [[buffer(1)]],
              device float *precise_result [[buffer(2)]], uint i [[thread_position_in_grid]]) {{
    fast_result[i] = fast::exp2(x[i]);
    precise_result[i] = exp2(x[i]);
}}"""
    x = memory(np.array([-np.inf, 0, *np.linspace(-20, 20, 62)], np.float32))
    fast, precise, again = memory((64,)), memory((64,)), memory((64,))
    pipeline = emulator.compile(text).pipeline("k")
    pipeline.run({0: x, 1: fast, 2: precise}, 2, 32)
    np.testing.assert_array_equal(fast, precise)
    pipeline.run({0: x, 1: fast, 2: again}, 2, 32, fast_ulps=4, seed=7)
    np.testing.assert_array_equal(again, precise)
    distance = np.abs(fast.view(np.int32) - precise.view(np.int32))
    assert 0 < distance.max() <= 4
    assert fast[0] == 0


@pytest.mark.parametrize("math", driver.MATH)
def test_functions_without_a_namespace_are_fast_or_precise(emulator, memory, math):
    text = f"""{HEADER}
kernel void k(device const float *x [[buffer(0)]], device float *results [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {{
    results[3 * i] = fast::exp2(x[i]) + fast::pow(x[i], 2.5f);
    results[3 * i + 1] = precise::exp2(x[i]) + precise::pow(x[i], 2.5f);
    results[3 * i + 2] = exp2(x[i]) + pow(x[i], 2.5f);
}}"""
    x, results = memory(np.linspace(1, 3, 64, dtype=np.float32)), memory((64, 3))
    for fast_functions in (False, True):
        pipeline = emulator.compile(text, math=math, fast_functions=fast_functions).pipeline("k")
        pipeline.run({0: x, 1: results}, 2, 32, fast_ulps=64, seed=8)
        fast, precise, plain = results.T.copy()
        assert not np.array_equal(fast, precise)
        np.testing.assert_array_equal(plain, fast if fast_functions else precise)


def test_relaxed_math_reorders_sums(emulator, memory):
    text = f"""{HEADER}
kernel void k(device float *x [[buffer(0)]]) {{ x[2] = (x[0] + x[1]) - x[0]; }}"""
    for math, expected in [("safe", 0), ("relaxed", 1), ("fast", 1)]:
        x = memory(np.array([1e9, 1, 0], np.float32))
        emulator.compile(text, math=math).pipeline("k").run({0: x}, 1, 1)
        assert x[2] == expected


def test_a_division_by_zero_is_a_trap(emulator, memory):
    with caught("trap", "divides an integer by zero at program_source:"):
        emulator.compile(TOYS).pipeline("divide").run(
            {0: memory(np.zeros(4, np.int32)), 1: memory((4,), np.int32)}, 1, 4
        )


def test_a_launch_after_a_fault_runs(emulator, memory):
    divide = emulator.compile(TOYS, mode="fast").pipeline("divide")
    result = memory((4,), np.int32)
    with caught("trap"):
        divide.run({0: memory(np.zeros(4, np.int32)), 1: result}, 1, 4)
    divide.run({0: memory(np.full(4, 5, np.int32)), 1: result}, 1, 4)
    np.testing.assert_array_equal(result, 20)

"""Libraries, pipelines, function constants, compile errors, limits, and the cache of what is compiled."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from metal_emulator.driver import At, Bytes, CompileError
from metal_emulator.tests.toys import EVERY_MODE, HEADER, MATRIX_TYPES, TOYS, caught, shape


def test_a_library_lists_its_kernels(emulator):
    kernels = emulator.compile(TOYS).kernels()
    matmuls = {f"matmul_{kind}" for kind in MATRIX_TYPES}
    others = {
        "copy",
        "row_sum",
        "transpose",
        "lane_map",
        "specialised",
        "histogram",
        "masked_softmax",
        "divide",
    }
    assert set(kernels) == matmuls | others
    assert kernels["copy"] == {
        "from": (0, "device", True, False),
        "to": (1, "device", False, False),
        "shape": (2, "constant", True, False),
    }
    assert kernels["transpose"]["tile"] == (0, "threadgroup", False, False)
    assert kernels["specialised"]["bias"] == (2, "device", True, True)


def test_a_library_lists_its_function_constants(emulator):
    assert emulator.compile(TOYS).constants() == {
        "scaled": (0, "bool", True),
        "scale": (1, "float", True),
        "shift": (2, "int", False),
    }


@EVERY_MODE
def test_function_constants(emulator, memory, mode):
    library = emulator.compile(TOYS, mode=mode)
    source, bias, result = (
        memory(np.arange(32, dtype=np.float32)),
        memory(np.ones(32, np.float32)),
        memory((32,)),
    )
    plain = library.pipeline("specialised", {0: ("bool", False), "scale": ("float", 3.0)})
    assert set(plain.arguments()) == {"from", "to"}
    plain.run({0: source, 1: result}, 1, 32)
    np.testing.assert_array_equal(result, source)
    scaled = {0: ("bool", True), 1: ("float", 2.5), 2: ("int", -3)}
    pipeline = library.pipeline("specialised", scaled)
    assert set(pipeline.arguments()) == {"from", "to", "bias"}
    pipeline.run({0: source, 1: result, 2: bias}, 1, 32)
    np.testing.assert_array_equal(result, (source - 3) * np.float32(2.5) + 1)


def test_function_constants_that_are_missing_or_of_another_type_are_refused(emulator):
    library = emulator.compile(TOYS)
    with pytest.raises(CompileError, match=r"function constant 'scaled?' has no value"):
        library.pipeline("specialised", {"scaled": ("bool", True)})
    with pytest.raises(CompileError, match="'scale' has another type"):
        library.pipeline("specialised", {"scaled": ("bool", True), "scale": ("int", 1)})
    library.pipeline("copy")  # which uses none


def test_compile_errors_carry_the_message_and_the_line(emulator):
    with pytest.raises(
        CompileError, match=r"program_source:4:\d+: error: use of undeclared identifier 'nothing'"
    ):
        emulator.compile(HEADER + "kernel void k(device float *a [[buffer(0)]]) {\n    a[0] = nothing;\n}\n")
    with pytest.raises(
        CompileError, match=r"program_source:3:1: error: a parameter of kernel 'k' has no attribute"
    ):
        emulator.compile(HEADER + "kernel void k(device float *a) {}\n")
    with pytest.raises(CompileError, match="the library has no kernel 'absent'"):
        emulator.compile(TOYS).pipeline("absent")


def test_line_directives_name_the_file(emulator):
    text = (
        HEADER
        + '#line 7 "attention.metal"\nkernel void k(device float *a [[buffer(0)]]) { a[0] = nothing; }\n'
    )
    with pytest.raises(CompileError, match=r"attention\.metal:7:\d+: error"):
        emulator.compile(text)


def test_macros(emulator, memory):
    text = HEADER + "kernel void k(device float *a [[buffer(WHERE)]]) { a[0] = VALUE + __METAL_VERSION__; }"
    result = memory((1,))
    macros = {"WHERE": 3, "VALUE": "(1 + 2)"}
    emulator.compile(text, macros=macros, language=(3, 2)).pipeline("k").run({3: result}, 1, 1)
    assert result[0] == 323


def test_pipelines_know_their_limits(emulator):
    library = emulator.compile(TOYS)
    assert library.pipeline("row_sum").static_threadgroup_memory == 128
    assert library.pipeline("matmul_half").static_threadgroup_memory == 2 * 128 + 256
    assert library.pipeline("copy").max_threads == 1024
    text = (
        HEADER
        + "[[max_total_threads_per_threadgroup(64)]] kernel void k(device int *a [[buffer(0)]]) { a[0] = 1; }"
    )
    assert emulator.compile(text).pipeline("k").max_threads == 64
    template = HEADER + (
        "template <int N> [[kernel, max_total_threads_per_threadgroup(N * 32)]] void k("
        "device int *a [[buffer(0)]]) { a[0] = N; }\n"
        'template [[host_name("k2")]] [[kernel]] decltype(k<2>) k<2>;'
    )
    assert emulator.compile(template).pipeline("k2").max_threads == 64
    large = HEADER + (
        "kernel void k(device float *a [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n"
        "    threadgroup float much[8193];\n    much[i] = a[i];\n    a[i] = much[i];\n}"
    )
    with pytest.raises(CompileError, match="32784 bytes of threadgroup memory"):
        emulator.compile(large).pipeline("k")


def test_launches_beyond_the_limits_are_refused(emulator, memory):
    library = emulator.compile(TOYS)
    copy, buffers = library.pipeline("copy"), {0: memory((4,)), 1: memory((4,)), 2: shape(columns=0)}
    with caught("launch", "1056 threads"):
        copy.run(buffers, 1, (32, 33))
    with caught("launch", "offset 20 of buffer 0"):
        copy.run({**buffers, 0: At(buffers[0], 20)}, 1, 1)
    with caught("launch", "setBytes of 4100 bytes"):
        copy.run({**buffers, 2: Bytes(np.zeros(1025, np.float32))}, 1, 1)
    with caught("launch", "32784 bytes of threadgroup memory"):
        library.pipeline("transpose").run({0: buffers[0], 1: buffers[1]}, 1, 1, threadgroup={0: 32784})


def test_compiled_kernels_are_cached(emulator, monkeypatch):
    source = HEADER + "kernel void cached(device int *a [[buffer(0)]]) { a[0] = 1; }"
    emulator.compile(source).pipeline("cached")
    monkeypatch.setenv("METAL_EMULATOR_PYTHON", "/does/not/exist")
    emulator.compile(source).pipeline("cached")
    with pytest.raises(CompileError, match="cannot run /does/not/exist"):
        emulator.compile(source, math="fast")


def test_warnings_come_from_the_cache_too(emulator, tmp_path, monkeypatch):
    monkeypatch.setenv("METAL_EMULATOR_CACHE", str(tmp_path))
    source = HEADER + "#warning mind this\nkernel void k(device int *a [[buffer(0)]]) { a[0] = 1; }"
    first, second = emulator.compile(source), emulator.compile(source)
    assert "program_source:3:2: warning: mind this" in first.messages
    assert second.messages == first.messages


def test_several_threads_may_compile_and_run_at_once(emulator, memory):
    text = (
        HEADER
        + "kernel void k(device int *a [[buffer(0)]], uint i [[thread_position_in_grid]]) { a[i] = i; }"
    )
    results = [memory((64,), np.int32) for _ in range(8)]

    def work(result):
        emulator.compile(text + f"// {result.ctypes.data % 2}").pipeline("k").run({0: result}, 2, 32)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, results))
    for result in results:
        np.testing.assert_array_equal(result, np.arange(64))

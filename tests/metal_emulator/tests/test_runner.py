"""The Metal emulator's kernel side: small kernels give right answers, and every planted bug is caught."""

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from metal_emulator import driver
from metal_emulator.driver import At, Bytes, CompileError, Fault
from support.tools import require_metal_emulator

TOYS = (driver.HOME / "toys.metal").read_text()
HEADER = "#include <metal_stdlib>\nusing namespace metal;\n"
EVERY_ORDER = pytest.mark.parametrize("order", driver.ORDERS)
EVERY_MODE = pytest.mark.parametrize("mode", driver.MODES)
MATRIX_TYPES = {"float": np.float32, "half": np.float16, "bfloat": ml_dtypes.bfloat16}


@pytest.fixture(scope="session")
def emulator(tmp_path_factory):
    require_metal_emulator()
    folder = tmp_path_factory.mktemp("metal_emulator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METAL_EMULATOR_HOME", str(driver.HOME))
        patch.setenv("METAL_EMULATOR_PYTHON", sys.executable)
        if "METAL_EMULATOR_CACHE" not in os.environ:
            patch.setenv("METAL_EMULATOR_CACHE", str(folder / "cache"))
        yield driver.Emulator(driver.build(folder))


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


def planted(old, new):
    assert TOYS.count(old) == 1, f"{old!r} is {TOYS.count(old)} times in the toys"
    return TOYS.replace(old, new)


def shape(rows=1, columns=1, depth=1):
    return Bytes(np.array([rows, columns, depth], np.uint32))


def caught(kind, *words):
    return pytest.raises(Fault, match=rf"^{kind}: kernel '\w+', threadgroup .*" + ".*".join(words))


# ---------------------------------------------------------------- right answers


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


def run_matmul(emulator, memory, source, kind="float", mode="checked", order="fifo", sizes=(12, 10, 20)):
    rows, columns, depth = sizes
    random = np.random.default_rng(4)
    a = random.standard_normal((rows, depth)).astype(MATRIX_TYPES[kind])
    b = random.standard_normal((depth, columns)).astype(MATRIX_TYPES[kind])
    result = memory((rows, columns))
    pipeline = emulator.compile(source, mode=mode).pipeline(f"matmul_{kind}")
    groups = (-(-columns // 8), -(-rows // 8))
    pipeline.run({0: memory(a), 1: memory(b), 2: result, 3: shape(*sizes)}, groups, 32, order=order, seed=5)
    return result, a.astype(np.float64) @ b.astype(np.float64)


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


LANGUAGE = (
    HEADER
    + """
struct Pair { float a; Pair(float x) thread : a(x) {} float twice() const thread { return 2 * a; } };
template <typename T> T double_it(T x) { return x + x; }
constant float table[4] = {1, 2, 3, 4};
enum { SOURCE = 0, RESULT = SOURCE + 1 };
kernel void words(device const float *from [[buffer(SOURCE)]], device float *to [[buffer(RESULT)]],
                  uint3 size [[threads_per_grid]], ushort lane [[thread_index_in_simdgroup]]) {
    float words[8];
    const float local = 2.0;  // a name that OpenCL reserves
    const half4 h = half4(1.5h, half2(2.0), 3);
    const bfloat2 b = bfloat2(1.5bf);
    const float4 f = float4(h) * local;
    vec<float, 2> v = vec<float, 2>(f.xw);
    Pair pair(f.y);
    words[0] = v.x + v.y;
    words[1] = float(b.x) + table[size.x & 3];
    words[2] = pair.twice() + double_it(half(0.5)) + (numeric_limits<float>::max() == FLT_MAX);
    words[3] = select(1.0f, 2.0f, from[0] > 0) + max(1, 2) + clamp(5.0f, 0.0f, 4.0f);
    words[4] = as_type<float>(as_type<uint>(from[1]) + 1u);
    words[5] = simd_shuffle_xor(float(lane), 5) + simd_broadcast(float(lane), 7) + simd_max(lane);
    words[6] = float(all(f == float4(3, 4, 4, 6))) + any(h < half4(2)) + popcount(7u);
    words[7] = dot(f.xy, float2(1, 10)) + precise::exp2(3.0) + fma(2.0f, 3.0f, 1.0f) + rsqrt(0.25f);
    if (lane == 0)
        for (int i = 0; i < 8; ++i)
            to[i] = words[i];
}
"""
)


@EVERY_MODE
def test_the_language(emulator, memory, mode):
    source, result = memory(np.array([1, 2], np.float32)), memory((8,))
    emulator.compile(LANGUAGE, mode=mode).pipeline("words").run({0: source, 1: result}, 1, 32)
    after_two = np.nextafter(np.float32(2), np.float32(3))
    expected = [3 + 6, 1.5 + 1, 8 + 1 + 1, 2 + 2 + 4, after_two, 5 + 7 + 31, 1 + 1 + 3, 3 + 40 + 8 + 7 + 2]
    np.testing.assert_array_equal(result, np.array(expected, np.float32))


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


# ---------------------------------------------------------------- libraries and pipelines


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


# ---------------------------------------------------------------- planted bugs: memory


def test_reads_out_of_bounds(emulator, memory):
    source = planted("    if (i < shape.columns)\n        to[i]", "    to[i]")
    buffers = {0: memory(np.ones(60, np.float32)), 1: memory((64,)), 2: shape(columns=60)}
    with caught(
        "out of bounds",
        "thread 28 .*lane 28",
        "reads buffer 0 'from' at offset 240",
        "program_source:1[0-9]$",
    ):
        emulator.compile(source).pipeline("copy").run(buffers, 2, 32)


def test_writes_out_of_bounds(emulator, memory):
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((60,)), 2: shape(columns=61)}
    with caught("out of bounds", "writes buffer 1 'to' at offset 240"):
        emulator.compile(TOYS).pipeline("copy").run(buffers, 2, 32)
    with caught("out of bounds", "next to buffer 1"):
        emulator.compile(TOYS, mode="fast").pipeline("copy").run(buffers, 2, 32)


def test_the_fast_build_has_guard_pages(emulator, memory):
    source, result = memory(np.ones(64, np.float32)), memory((4096,))
    with caught("out of bounds", "touches buffer 0 'from' at offset 256", "program_source:"):
        emulator.compile(TOYS, mode="fast").pipeline("copy").run(
            {0: source, 1: result, 2: shape(columns=4096)}, 128, 32
        )


def test_offsets_move_the_pointer_but_not_the_bounds(emulator, memory):
    source, result = memory(np.arange(64, dtype=np.float32)), memory((64,))
    copy = emulator.compile(TOYS).pipeline("copy")
    copy.run({0: At(source, 128), 1: result, 2: shape(columns=32)}, 1, 32)
    np.testing.assert_array_equal(result[:32], source[32:])
    with caught("out of bounds", "reads buffer 0 'from' at offset 256"):
        copy.run({0: At(source, 128), 1: result, 2: shape(columns=33)}, 2, 32)


def test_declared_extents_narrow_a_buffer(emulator, memory):
    whole, result = memory(np.ones(64, np.float32)), memory((64,))
    copy = emulator.compile(TOYS).pipeline("copy")
    emulator.declare_extent(whole[:40])
    try:
        with caught("out of bounds", "reads buffer 0 'from' at offset 160"):
            copy.run({0: whole, 1: result, 2: shape(columns=41)}, 2, 32)
    finally:
        emulator.withdraw_extent(whole[:40])
    copy.run({0: whole, 1: result, 2: shape(columns=41)}, 2, 32)


def test_an_argument_that_is_not_bound(emulator, memory):
    with caught("out of bounds", "reads an argument that is not bound, at offset 0"):
        emulator.compile(TOYS).pipeline("copy").run({1: memory((4,)), 2: shape(columns=4)}, 1, 32)


def test_writes_to_bytes_are_refused(emulator, memory):
    buffers = {0: memory(np.ones(4, np.float32)), 1: Bytes(np.zeros(4, np.float32)), 2: shape(columns=4)}
    with caught("read only", "writes bytes 1 'to'"):
        emulator.compile(TOYS).pipeline("copy").run(buffers, 1, 32)


@EVERY_MODE
def test_threadgroup_memory_out_of_bounds(emulator, memory, mode):
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((64,))}
    with caught("out of bounds", "threadgroup memory 0 'tile'"):
        emulator.compile(TOYS, mode=mode).pipeline("transpose").run(buffers, 1, (8, 8), threadgroup={0: 240})


@EVERY_MODE
def test_threadgroup_variables_out_of_bounds(emulator, memory, mode):
    source = planted("partial[32]", "partial[2]")
    buffers = {0: memory(np.ones(128, np.float32)), 1: memory((1,)), 2: shape(columns=128)}
    with caught("out of bounds", "threadgroup memory 'partial' at offset 8"):
        emulator.compile(source, mode=mode).pipeline("row_sum").run(buffers, 1, 128)


def test_unwritten_device_memory(emulator, memory):
    source = memory((64,))
    source[:40] = np.nan  # NaN that somebody wrote is a value
    with caught("unwritten", "reads buffer 0 'from' at offset 160"):
        emulator.compile(TOYS).pipeline("copy").run(
            {0: source, 1: memory((64,)), 2: shape(columns=41)}, 2, 32
        )
    emulator.compile(TOYS).pipeline("copy").run({0: source, 1: memory((64,)), 2: shape(columns=40)}, 2, 32)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("uchar", np.uint8), ("half", np.float16), ("float", np.float32)]
)
def test_a_host_write_of_any_size_counts(emulator, memory, kind, dtype):
    text = f"""{HEADER}
kernel void k(device const {kind} *a [[buffer(0)]], device float *b [[buffer(1)]],
              uint i [[thread_position_in_grid]]) {{ b[i] = a[i]; }}"""
    source = memory((50,), dtype)
    source[:] = np.arange(50)
    k = emulator.compile(text).pipeline("k")
    k.run({0: source, 1: memory((50,))}, 1, 50)
    with caught("unwritten"):
        k.run({0: memory((50,), dtype), 1: memory((50,))}, 1, 50)


def test_unwritten_threadgroup_memory(emulator, memory):
    source = planted(
        "    if (lane == 0)\n        partial[simdgroup] = sum;",
        "    if (lane == 0 && simdgroup == 0)\n        partial[simdgroup] = sum;",
    )
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((1,)), 2: shape(columns=64)}
    with caught("unwritten", "reads threadgroup memory 'partial' at offset 4"):
        emulator.compile(source).pipeline("row_sum").run(buffers, 1, 64)
    emulator.compile(source, mode="fast").pipeline("row_sum").run(buffers, 1, 64)
    assert np.isnan(buffers[1][0])


def test_threadgroup_memory_does_not_survive_into_the_next_threadgroup(emulator, memory):
    source = planted(
        "    if (lane == 0)\n        partial[simdgroup] = sum;",
        "    if (lane == 0 && row == 0)\n        partial[simdgroup] = sum;",
    )
    buffers = {0: memory(np.ones(128, np.float32)), 1: memory((2,)), 2: shape(columns=64)}
    with caught("unwritten", "partial"):
        emulator.compile(source).pipeline("row_sum").run(buffers, 2, 64)


def test_unset_variables_are_nan(emulator, memory):
    source = planted("simdgroup_matrix<float, 8, 8> sum(0.0f);", "simdgroup_matrix<float, 8, 8> sum;")
    result, _ = run_matmul(emulator, memory, source)
    assert np.isnan(result).all()


NOT_ZEROED = """                right[i] = b[(start + i / 8) * shape.columns + column];
            else
                right[i] = T(0);
"""


@EVERY_ORDER
def test_stale_data_in_a_tail_tile(emulator, memory, order):
    source = planted(NOT_ZEROED, NOT_ZEROED.split("            else")[0])
    with caught("stale", "reads threadgroup memory 'right'", "left from an earlier pass", "program_source:"):
        run_matmul(emulator, memory, source, order=order, sizes=(8, 8, 20))


TILES = f"""{HEADER}
kernel void tiles(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                  constant uint &rows [[buffer(2)]], uint i [[thread_index_in_threadgroup]]) {{
    threadgroup float tile[4][32];
    if (i >= 24)
        for (int row = 0; row < 4; ++row)
            tile[row][i] = 0; // padding, once
    float sum = 0;
    for (uint first = 0; first < rows; first += 4) {{
        BARRIER
        if (i < 24) {{
            if (first + 4 <= rows) {{
                for (int row = 0; row < 4; ++row)
                    tile[row][i] = from[24 * (first + row) + i];
            }} else {{
                for (int row = 0; row < 4; ++row)
                    if (first + row < rows)
                        tile[row][i] = from[24 * (first + row) + i];
                    else
                        tile[row][i] = 0; // tail
            }}
        }}
        BARRIER
        for (int row = 0; row < 4; ++row)
            sum += tile[row][31 - i];
    }}
    to[i] = sum;
}}"""
TAIL = """                    else
                        tile[row][i] = 0; // tail
"""


@pytest.mark.parametrize("barrier", ["threadgroup_barrier", "simdgroup_barrier"])
def test_stale_data_where_the_tail_has_stores_of_its_own(emulator, memory, barrier):
    text = TILES.replace("BARRIER", f"{barrier}(mem_flags::mem_threadgroup);")
    assert text.count(TAIL) == 1
    source, result = memory(np.arange(10 * 24, dtype=np.float32).reshape(10, 24)), memory((32,))
    buffers = {0: source, 1: result, 2: Bytes(np.uint32(10))}
    emulator.compile(text).pipeline("tiles").run(buffers, 1, 32)
    np.testing.assert_array_equal(result, np.pad(source.sum(0), (0, 8))[::-1])
    with caught("stale", "reads threadgroup memory 'tile' at offset"):
        emulator.compile(text.replace(TAIL, "")).pipeline("tiles").run(buffers, 1, 32)


def test_two_buffers_in_turn_are_not_stale(emulator, memory):
    text = f"""{HEADER}
kernel void k(device const float *a [[buffer(0)]], device float *b [[buffer(1)]],
              uint i [[thread_index_in_threadgroup]]) {{
    threadgroup float tile[2][32];
    float sum = 0;
    tile[0][i] = a[i];
    for (int step = 0; step < 6; ++step) {{
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (step < 5)
            tile[(step + 1) % 2][i] = a[32 * (step + 1) + i];
        sum += tile[step % 2][31 - i];
    }}
    b[i] = sum;
}}"""
    source, result = memory(np.arange(6 * 32, dtype=np.float32)), memory((32,))
    emulator.compile(text).pipeline("k").run({0: source, 1: result}, 1, 32)
    np.testing.assert_array_equal(result, source.reshape(6, 32).sum(0)[::-1])


def test_a_scan_in_place_may_say_so(emulator, memory):
    text = f"""{HEADER}
kernel void k(device float *b [[buffer(0)]], uint i [[thread_index_in_threadgroup]]) {{
    threadgroup float sums[32];
    sums[i] = 1;
    for (uint distance = 1; distance < 32; distance *= 2) {{
        threadgroup_barrier(mem_flags::mem_threadgroup);
        const float other = i >= distance ? sums[i - distance] : 0.0f;
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (i >= distance)
            sums[i] += other;
    }}
    b[i] = sums[i];
}}"""
    result = memory((32,))
    pipeline = emulator.compile(text).pipeline("k")
    with caught("stale"):
        pipeline.run({0: result}, 1, 32)
    pipeline.run({0: result}, 1, 32, allow_stale=True)
    np.testing.assert_array_equal(result, np.arange(1, 33))


# ---------------------------------------------------------------- planted bugs: order


FILLED = "        threadgroup_barrier(mem_flags::mem_threadgroup); // filled\n"
USED = "        threadgroup_barrier(mem_flags::mem_threadgroup); // used\n"
STORED = "    simdgroup_store(sum, product, 8);\n    simdgroup_barrier(mem_flags::mem_threadgroup);\n"


@EVERY_ORDER
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (FILLED, ""),
        (USED, ""),
        (STORED, "    simdgroup_store(sum, product, 8);\n"),
        (FILLED, FILLED.replace("mem_threadgroup)", "mem_none)")),
        (FILLED, FILLED.replace("mem_threadgroup)", "mem_device)")),
    ],
    ids=["filled", "used", "stored", "orders nothing", "orders other memory"],
)
def test_a_removed_barrier(emulator, memory, order, old, new):
    with pytest.raises(Fault) as fault:
        run_matmul(emulator, memory, planted(old, new), order=order)
    # Whoever reads first reads what is not there yet, or what is still to be overwritten.
    assert fault.value.kind in ("race", "unwritten", "stale")
    assert "threadgroup memory" in str(fault.value)
    assert "program_source:" in str(fault.value)


def test_a_removed_barrier_shows_in_the_fast_build_under_some_order(emulator, memory):
    load = "    tile[at.y * 8 + at.x] = from[at.y * 8 + at.x];\n"
    source = planted(load + "    threadgroup_barrier(mem_flags::mem_threadgroup);\n", load)
    transpose = emulator.compile(source, mode="fast").pipeline("transpose")
    values, result = memory(np.arange(64, dtype=np.float32).reshape(8, 8)), memory((8, 8))
    wrong = 0
    for order in driver.ORDERS:
        transpose.run({0: values, 1: result}, 1, (8, 8), threadgroup={0: 256}, order=order)
        wrong += not np.array_equal(result, values.T)
    assert wrong > 0


def test_simdgroup_barriers_do_not_order_other_simdgroups(emulator, memory):
    source = planted(
        "    threadgroup_barrier(mem_flags::mem_threadgroup);\n    to[at.y",
        "    simdgroup_barrier(mem_flags::mem_threadgroup);\n    to[at.y",
    )
    buffers = {0: memory(np.ones(64, np.float32)), 1: memory((64,))}
    with pytest.raises(Fault) as fault:
        emulator.compile(source).pipeline("transpose").run(buffers, 1, (8, 8), threadgroup={0: 256})
    assert fault.value.kind in ("race", "unwritten")


@EVERY_ORDER
def test_a_race_between_threadgroups(emulator, memory, order):
    # One column too many: the values are right, whoever writes last.
    source = planted(
        "            c[row * shape.columns + column] = product[i];",
        "            c[row * shape.columns + min(column, 6u)] = product[i];",
    )
    with caught("race", "writes buffer 2 'c'", "written at program_source:", "with nothing to order them"):
        run_matmul(emulator, memory, source, order=order, sizes=(8, 16, 8))


@EVERY_ORDER
def test_threadgroups_that_read_what_another_writes(emulator, memory, order):
    buffer = memory(np.zeros(48, np.float32))
    with caught("race", "of another threadgroup"):
        emulator.compile(TOYS).pipeline("copy").run(
            {0: At(buffer, 64), 1: buffer, 2: shape(columns=32)}, 2, 16, order=order
        )


def test_counting_without_atomics_races(emulator, memory):
    source = planted("device atomic_uint *counts", "device uint *counts").replace(
        "atomic_fetch_add_explicit(&counts[from[i]], 1u, memory_order_relaxed);", "counts[from[i]] += 1;"
    )
    buffers = {0: memory(np.zeros(64, np.uint32)), 1: memory(np.zeros(1, np.uint32))}
    with caught("race", "buffer 1 'counts' at offset 0"):
        emulator.compile(source).pipeline("histogram").run(buffers, 1, 64)


# ---------------------------------------------------------------- planted bugs: divergence


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


# ---------------------------------------------------------------- arithmetic


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


# ---------------------------------------------------------------- counters


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


# ---------------------------------------------------------------- lint


def kernel_using(expression, helpers=""):
    return (
        f"{HEADER}{helpers}\n"
        "kernel void k(device float *a [[buffer(0)]], uint i [[thread_position_in_grid]]) {\n"
        f"    a[i] = {expression};\n}}\n"
    )


@pytest.mark.parametrize(
    ("helpers", "expression", "message"),
    [
        ("", "(float)(double)a[i]", "double"),
        ("double f(float x) { return x; }", "f(a[i])", "double"),
        ("float f(const float *p) { return *p; }", "f(a)", r"program_source:3:1: error: 'p' points to no"),
        ("float f(float &x) { return x; }", "f(a[i])", "'x' points to no address space"),
        ("struct S { float *p; };", "a[i]", "'p' points to no address space"),
        ("float f(threadgroup const float *p) { return *p; }", "f(a)", "no matching function"),
        ("int f(int n) { return n < 2 ? 1 : n * f(n - 1); }", "f(i)", "_source:3:1: error: 'f' calls itself"),
        ("int g(int);\nint f(int n) { return g(n); }\nint g(int n) { return f(n); }", "f(i)", "calls itself"),
        ("int f(int n) { static int x = 0; return x; }", "f(i)", "'static' local variable"),
        ('int f(int n) { __asm("nop"); return n; }', "f(i)", "'__asm' is refused"),
        ("struct S { virtual int f() { return 1; } };", "a[i]", "virtual"),
        ("int f(int n) { throw n; }", "f(i)", "throw"),
        ("int f(int fragment) { return fragment; }", "f(i)", "'fragment' is refused"),
        ("int f(int n) { try { return n; } catch (...) { return 1; } }", "f(i)", "try"),
        ("int g(int n) { return n; }\nint f(int n) { int (*h)(int) = g; return h(n); }", "f(i)", "function"),
    ],
)  # fmt: skip
def test_lint_refuses(emulator, helpers, expression, message):
    assert re.search(message, emulator.lint(kernel_using(expression, helpers)))


def test_lint_has_nothing_against_plain_kernels(emulator):
    helpers = """
static inline float plain(float x) { return x; }
float from_device(device const float *p) { return *p; }
float by_reference(thread const float &x) { return x; }
template <typename T> T twice(T x) {
    T parts[2] = {x, x};
    auto first = &parts[0];
    auto sum = [&](int i) { return *first + parts[i]; };
    return sum(1);
}
constant float table[2] = {1, 2};
"""
    expression = "plain(a[i]) + from_device(a + i) + twice(a[i]) + table[i & 1]"
    assert emulator.lint(kernel_using(expression, helpers)) == ""
    assert emulator.lint(TOYS) == ""
    assert emulator.lint(LANGUAGE) == ""

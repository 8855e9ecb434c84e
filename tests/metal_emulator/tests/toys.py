"""The kernels of toys.metal, with bugs planted in them, and how to run them."""

import ml_dtypes
import numpy as np
import pytest
from metal_emulator import driver
from metal_emulator.driver import Bytes, Fault

TOYS = (driver.HOME / "tests/toys.metal").read_text()
HEADER = "#include <metal_stdlib>\nusing namespace metal;\n"
EVERY_ORDER = pytest.mark.parametrize("order", driver.ORDERS)
EVERY_MODE = pytest.mark.parametrize("mode", driver.MODES)
MATRIX_TYPES = {"float": np.float32, "half": np.float16, "bfloat": ml_dtypes.bfloat16}
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


def planted(old, new):
    assert TOYS.count(old) == 1, f"{old!r} is {TOYS.count(old)} times in the toys"
    return TOYS.replace(old, new)


def shape(rows=1, columns=1, depth=1):
    return Bytes(np.array([rows, columns, depth], np.uint32))


def caught(kind, *words):
    return pytest.raises(Fault, match=rf"^{kind}: kernel '\w+', threadgroup .*" + ".*".join(words))


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

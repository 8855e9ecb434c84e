// Small kernels with nothing wrong in them; the emulator's tests plant bugs by replacing a line.
#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
using namespace metal;

struct Shape {
    uint rows, columns, depth;
};

kernel void copy(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                 constant Shape &shape [[buffer(2)]], uint i [[thread_position_in_grid]]) {
    if (i < shape.columns)
        to[i] = from[i];
}

// One threadgroup for a row.
kernel void row_sum(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                    constant Shape &shape [[buffer(2)]], uint row [[threadgroup_position_in_grid]],
                    uint thread_index [[thread_index_in_threadgroup]], uint threads [[threads_per_threadgroup]],
                    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
                    uint simdgroups [[simdgroups_per_threadgroup]]) {
    threadgroup float partial[32];
    float sum = 0;
    for (uint i = thread_index; i < shape.columns; i += threads)
        sum += from[row * shape.columns + i];
    sum = simd_sum(sum);
    if (lane == 0)
        partial[simdgroup] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (simdgroup == 0) {
        sum = simd_sum(lane < simdgroups ? partial[lane] : 0.0f);
        if (lane == 0)
            to[row] = sum;
    }
}

kernel void transpose(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                      threadgroup float *tile [[threadgroup(0)]], uint2 at [[thread_position_in_threadgroup]]) {
    tile[at.y * 8 + at.x] = from[at.y * 8 + at.x];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    to[at.y * 8 + at.x] = tile[at.x * 8 + at.y];
}

// One simdgroup for an 8x8 tile of the product.
template <typename T>
kernel void matmul(device const T *a [[buffer(0)]], device const T *b [[buffer(1)]], device float *c [[buffer(2)]],
                   constant Shape &shape [[buffer(3)]], uint2 tile [[threadgroup_position_in_grid]],
                   ushort lane [[thread_index_in_simdgroup]]) {
    threadgroup T left[64], right[64];
    threadgroup float product[64];
    simdgroup_matrix<float, 8, 8> sum(0.0f);
    for (uint start = 0; start < shape.depth; start += 8) {
        for (ushort i = lane; i < 64; i += 32) {
            const uint row = tile.y * 8 + i / 8, column = tile.x * 8 + i % 8, k = start + i % 8;
            if (row < shape.rows && k < shape.depth)
                left[i] = a[row * shape.depth + k];
            else
                left[i] = T(0);
            if (start + i / 8 < shape.depth && column < shape.columns)
                right[i] = b[(start + i / 8) * shape.columns + column];
            else
                right[i] = T(0);
        }
        threadgroup_barrier(mem_flags::mem_threadgroup); // filled
        simdgroup_matrix<T, 8, 8> x, y;
        simdgroup_load(x, left, 8);
        simdgroup_load(y, right, 8);
        simdgroup_multiply_accumulate(sum, x, y, sum);
        threadgroup_barrier(mem_flags::mem_threadgroup); // used
    }
    simdgroup_store(sum, product, 8);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (ushort i = lane; i < 64; i += 32) {
        const uint row = tile.y * 8 + i / 8, column = tile.x * 8 + i % 8;
        if (row < shape.rows && column < shape.columns)
            c[row * shape.columns + column] = product[i];
    }
}

template [[host_name("matmul_float")]] [[kernel]] void matmul<float>(device const float *, device const float *,
                                                                     device float *, constant Shape &, uint2, ushort);
template [[host_name("matmul_half")]] [[kernel]] decltype(matmul<half>) matmul<half>;
template [[host_name("matmul_bfloat")]] [[kernel]] decltype(matmul<bfloat>) matmul<bfloat>;

// Each lane puts its elements of a matrix where it believes them to be.
kernel void lane_map(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                     ushort lane [[thread_index_in_simdgroup]]) {
    const ushort quad = lane / 4;
    const ushort row = (quad & 4) + (lane / 2) % 4, column = (quad & 2) * 2 + (lane % 2) * 2;
    simdgroup_float8x8 matrix;
    simdgroup_load(matrix, from, 8);
    thread auto &elements = matrix.thread_elements();
    to[row * 8 + column] = elements[0];
    to[row * 8 + column + 1] = elements[1];
}

constant bool scaled [[function_constant(0)]];
constant float scale [[function_constant(1)]];
constant int shift [[function_constant(2)]];
constant int used_shift = is_function_constant_defined(shift) ? shift : 0;

kernel void specialised(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                        device const float *bias [[buffer(2), function_constant(scaled)]],
                        uint i [[thread_position_in_grid]]) {
    to[i] = from[i] + float(used_shift);
    if (scaled)
        to[i] = to[i] * scale + bias[i];
}

kernel void histogram(device const uint *from [[buffer(0)]], device atomic_uint *counts [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
    atomic_fetch_add_explicit(&counts[from[i]], 1u, memory_order_relaxed);
}

// Softmax of a row of 32, of which only the first may be visible; nothing visible gives zeros.
kernel void masked_softmax(device const float *from [[buffer(0)]], device float *to [[buffer(1)]],
                           constant uint &visible [[buffer(2)]], uint i [[thread_position_in_grid]],
                           ushort lane [[thread_index_in_simdgroup]]) {
    const float score = lane < visible ? from[i] : -INFINITY;
    const float greatest = simd_max(score);
    const float weight = greatest == -INFINITY ? 0.0f : fast::exp2(score - greatest);
    const float sum = simd_sum(weight);
    to[i] = sum > 0.0f ? weight / sum : 0.0f;
}

kernel void divide(device const int *from [[buffer(0)]], device int *to [[buffer(1)]],
                   uint i [[thread_position_in_grid]]) {
    to[i] = 100 / from[i];
}

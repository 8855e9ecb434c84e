/*
 * 8x8 matrices spread over the 32 lanes of a simdgroup: a fragment is what one lane holds, two neighbours of a row.
 * Which ones is stated here alone; it is so on every Apple GPU so far (MLX relies on it too):
 *
 *   lane    0  1  8  9     columns 0 1 | 2 3 | 4 5 | 6 7  of row 0
 *           2  3 10 11                                    row 1
 *           ...
 *          16 17 24 25                                    row 4, and so on
 *
 * Arrays of fragments are registers only if every index is known when compiling: hence the loops with #pragma unroll.
 */
#ifndef MFA_FRAGMENT_H
#define MFA_FRAGMENT_H

#include "mfa_kernel.h"

inline int mfa_fragment_row(uint lane) { return int((lane >> 2 & 4) + (lane >> 1 & 3)); }

/* The first of the two columns. */
inline int mfa_fragment_column(uint lane) { return int((lane >> 1 & 4) + (lane << 1 & 2)); }

/* The lane that holds an element. */
inline ushort mfa_fragment_lane(int row, int column) {
    return ushort((row & 4) << 2 | (row & 3) << 1 | (column & 4) << 1 | (column >> 1 & 1));
}

template <typename T> inline simdgroup_matrix<T, 8, 8> mfa_matrix(vec<T, 2> pair) {
    simdgroup_matrix<T, 8, 8> matrix;
    matrix.thread_elements()[0] = pair[0];
    matrix.thread_elements()[1] = pair[1];
    return matrix;
}

/* left . right + sum; inputs multiply in their own types, sums are float. */
template <typename L, typename R> inline float2 mfa_multiply_add(vec<L, 2> left, vec<R, 2> right, float2 sum) {
    simdgroup_matrix<float, 8, 8> matrix = mfa_matrix<float>(sum);
    simdgroup_multiply_accumulate(matrix, mfa_matrix<L>(left), mfa_matrix<R>(right), matrix);
    return float2(matrix.thread_elements()[0], matrix.thread_elements()[1]);
}

/* Over the four lanes that hold a row. */
inline float mfa_row_max(float x) {
    x = max(x, simd_shuffle_xor(x, ushort(1)));
    return max(x, simd_shuffle_xor(x, ushort(8)));
}

inline float mfa_row_sum(float x) {
    x += simd_shuffle_xor(x, ushort(1));
    return x + simd_shuffle_xor(x, ushort(8));
}

inline float2 mfa_transpose(float2 pair, uint lane) {
    const int row = mfa_fragment_row(lane), column = mfa_fragment_column(lane);
    float2 transposed;
    for (int i = 0; i < 2; ++i) {
        const ushort from = mfa_fragment_lane(column + i, row);
        const float even = simd_shuffle(pair[0], from), odd = simd_shuffle(pair[1], from);
        transposed[i] = (row & 1) != 0 ? odd : even;
    }
    return transposed;
}

template <typename T> inline vec<T, 2> mfa_round(float2 pair) { return vec<T, 2>(T(pair[0]), T(pair[1])); }

#endif

/*
 * The products of the backward pass. A simdgroup owns 8 rows of one pair of operands and visits tiles of rows of the
 * other pair, which its threadgroup has staged:
 *
 *   dQ, dBias   own query and dout, visit key and value
 *   dK and dV   own key and value, visit query and dout
 *
 * Either way it multiplies first operand by first (scores) and second by second (gradients of the weights), and then
 * what became of these by the visited rows. Matrices of weights keep owned rows as rows, so that they never leave the
 * registers.
 */
#ifndef MFA_BACKWARD_TILE_H
#define MFA_BACKWARD_TILE_H

#include "mfa_fragment.h"
#include "mfa_rows.h"

/* What dout is multiplied as: halves are not multiplied by bfloats, and float costs no precision. */
typedef conditional_t<is_same_v<MFA_T, MFA_DO>, MFA_T, float> mfa_dout_type;

enum {
    MFA_HEAD_BLOCKS = MFA_D / MFA_BD, /* of the head dimension */
    MFA_HEAD_DEPTH = MFA_BD / 8,      /* matrices of one */
    MFA_VALUE_DEPTH = MFA_DV / 8      /* matrices of a block of the value dimension */
};

template <typename T, int COUNT> struct mfa_matrices {
    simdgroup_matrix<T, 8, 8> m[COUNT];
};

template <int COUNT> inline mfa_matrices<float, COUNT> mfa_zeros() {
    mfa_matrices<float, COUNT> zeros;
#pragma clang loop unroll(full)
    for (int i = 0; i < COUNT; ++i)
        zeros.m[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    return zeros;
}

/* ------------------------------------------------------------------ owned rows */

/* One of the simdgroup's 8 rows, as the lane sees it that holds a pair of each of its matrices. */
template <typename S> struct mfa_lane_row {
    mfa_rows<S> rows;
    mfa_found_row<S> row;
    int column; /* of the lane in a matrix */
};

/* Reads as zero from row `count` on. */
template <typename S>
inline mfa_lane_row<S> mfa_lane_row_of(mfa_rows<S> rows, mfa_index row, mfa_index count, uint lane) {
    mfa_lane_row<S> found;
    const mfa_index existing = min(row, count - 1);
    found.rows = rows;
    if (has_pages)
        found.rows = mfa_rows_from(rows, existing);
    found.column = mfa_fragment_column(lane);
    if (row >= count)
        found.rows.length = 0;
    mfa_find_row(found.row, found.rows, has_pages ? 0 : existing);
    return found;
}

template <typename T, typename S>
inline simdgroup_matrix<T, 8, 8> mfa_read_matrix(mfa_lane_row<S> row, int first_column) {
    const vec<typename mfa_storage<S>::element, 2> pair =
        mfa_read_found<2>(row.rows, row.row, first_column + row.column);
    return mfa_matrix<T>(vec<T, 2>(T(pair[0]), T(pair[1])));
}

/* Owned rows that stay in registers, and those that are read anew for each tile because there are too many columns. */
template <typename T, typename S, int DEPTH> struct mfa_resident_rows {
    typedef T element;
    enum { depth = DEPTH };
    mfa_matrices<T, DEPTH> matrices;
};
template <typename T, typename S, int DEPTH> struct mfa_reread_rows {
    typedef T element;
    enum { depth = DEPTH };
    mfa_lane_row<S> row;
};

template <typename T, typename S, int DEPTH>
inline void mfa_own(thread mfa_resident_rows<T, S, DEPTH> &rows, mfa_lane_row<S> row) {
#pragma clang loop unroll(full)
    for (int i = 0; i < DEPTH; ++i)
        rows.matrices.m[i] = mfa_read_matrix<T>(row, i * 8);
}
template <typename T, typename S, int DEPTH>
inline void mfa_own(thread mfa_reread_rows<T, S, DEPTH> &rows, mfa_lane_row<S> row) {
    rows.row = row;
}

template <typename T, typename S, int DEPTH>
inline simdgroup_matrix<T, 8, 8> mfa_owned_matrix(thread const mfa_resident_rows<T, S, DEPTH> &rows, int, int i) {
    return rows.matrices.m[i];
}
template <typename T, typename S, int DEPTH>
inline simdgroup_matrix<T, 8, 8> mfa_owned_matrix(thread const mfa_reread_rows<T, S, DEPTH> &rows, int block, int i) {
    return mfa_read_matrix<T>(rows.row, (block * DEPTH + i) * 8);
}

template <typename T, typename S, int DEPTH>
using mfa_owned_rows = conditional_t<MFA_RESIDENT != 0, mfa_resident_rows<T, S, DEPTH>, mfa_reread_rows<T, S, DEPTH>>;

/* ------------------------------------------------------------------ visited rows */

/* A pair of operands, and where tiles of them are staged. */
template <typename V1, typename S1, typename V2, typename S2> struct mfa_visited_rows {
    mfa_rows<S1> first_rows;
    mfa_rows<S2> second_rows;
    threadgroup V1 *first;
    threadgroup V2 *second;
    mfa_index count;
};

/* ------------------------------------------------------------------ products */

/* products += rows . tile^T, over one block of columns. */
template <typename ROWS, typename V, int COUNT>
inline void mfa_multiply_turned(thread const ROWS &rows, int block, threadgroup const V *tile,
                                thread mfa_matrices<float, COUNT> &products) {
    constexpr int lead = mfa_lead<V>(ROWS::depth * 8);
#pragma clang loop unroll(full)
    for (int i = 0; i < ROWS::depth; ++i) {
        const simdgroup_matrix<typename ROWS::element, 8, 8> left = mfa_owned_matrix(rows, block, i);
#pragma clang loop unroll(full)
        for (int j = 0; j < COUNT; ++j) {
            simdgroup_matrix<V, 8, 8> right;
            simdgroup_load(right, tile + j * 8 * lead + i * 8, lead, ulong2(0, 0), true);
            simdgroup_multiply_accumulate(products.m[j], left, right, products.m[j]);
        }
    }
}

/*
 * Stages the rows row .. row + ROWS - 1 of both visited operands and multiplies the owned ones by them, block by block
 * of columns; `last_block`, which comes last, is still staged afterwards. `is_visited` is false for a simdgroup that
 * has nothing to multiply, which stages all the same.
 */
template <int ROWS, int THREADS, typename OWNED1, typename OWNED2, typename VISITED>
inline void mfa_multiply_visited(constant mfa_metal_params &p, thread const OWNED1 &owned_first,
                                 thread const OWNED2 &owned_second, thread const VISITED &visited, mfa_index row,
                                 int last_block, bool is_visited, uint thread_number,
                                 thread mfa_matrices<float, ROWS / 8> &first_products,
                                 thread mfa_matrices<float, ROWS / 8> &second_products) {
    const int existing = int(min(visited.count - row, mfa_index(ROWS)));
    const int blocks = MFA_RESIDENT ? 1 : max(int(MFA_HEAD_BLOCKS), int(p.value_blocks));
    for (int i = 1; i <= blocks; ++i) {
        const int block = MFA_RESIDENT ? 0 : (last_block + i) % blocks;
        const bool in_head = block < MFA_HEAD_BLOCKS, in_value = block < int(p.value_blocks);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (in_head)
            mfa_stage<ROWS, MFA_BD, false, false, THREADS>(visited.first, visited.first_rows, row, 0, existing,
                                                           block * MFA_BD, thread_number);
        if (in_value)
            mfa_stage<ROWS, MFA_DV, false, false, THREADS>(visited.second, visited.second_rows, row, 0, existing,
                                                           block * MFA_DV, thread_number);
        threadgroup_barrier(mem_flags::mem_threadgroup);
        if (is_visited && in_head)
            mfa_multiply_turned(owned_first, block, visited.first, first_products);
        if (is_visited && in_value)
            mfa_multiply_turned(owned_second, block, visited.second, second_products);
    }
}

template <typename V> inline void mfa_zero_non_finite(thread simdgroup_matrix<V, 8, 8> &matrix) {
#pragma clang loop unroll(full)
    for (int i = 0; i < 2; ++i)
        if (!isfinite(float(matrix.thread_elements()[i])))
            matrix.thread_elements()[i] = V(0);
}

template <bool DIRTY, int COUNT, typename V, int DEPTH>
inline void mfa_add_product_as(thread const mfa_matrices<float, COUNT> &left, threadgroup const V *tile,
                               thread mfa_matrices<float, DEPTH> &sums) {
    constexpr int lead = mfa_lead<V>(DEPTH * 8);
#pragma clang loop unroll(full)
    for (int i = 0; i < DEPTH; ++i) {
        simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
#pragma clang loop unroll(full)
        for (int j = 0; j < COUNT; ++j) {
            simdgroup_matrix<V, 8, 8> right;
            simdgroup_load(right, tile + j * 8 * lead + i * 8, lead);
            if (DIRTY)
                mfa_zero_non_finite(right);
            simdgroup_multiply_accumulate(sum, left.m[j], right, sum);
        }
        for (int e = 0; e < 2; ++e)
            sums.m[i].thread_elements()[e] += sum.thread_elements()[e];
    }
}

/* sums += left . tile, which has a sum of its own: long sums of floats lose digits. If the tile is `dirty`, its
   non-finite values count as 0: pairs that see them have NaN on the left, and the others, which have 0 there, must add
   nothing. */
template <int COUNT, typename V, int DEPTH>
inline void mfa_add_product(thread const mfa_matrices<float, COUNT> &left, threadgroup const V *tile, bool dirty,
                            thread mfa_matrices<float, DEPTH> &sums) {
    if (dirty)
        mfa_add_product_as<true>(left, tile, sums);
    else
        mfa_add_product_as<false>(left, tile, sums);
}

/* Whether a visited row may hold non-finite values: its product with each owned row is then non-finite, too. All lanes
   get the same answer. */
template <int COUNT> inline bool mfa_is_dirty(thread mfa_matrices<float, COUNT> &products) {
    bool found = false;
#pragma clang loop unroll(full)
    for (int j = 0; j < COUNT; ++j)
        found = found || !isfinite(products.m[j].thread_elements()[0]) || !isfinite(products.m[j].thread_elements()[1]);
    return simd_any(found);
}

/* Writes one block of columns of a row, of which there are `count`. */
template <typename G, int DEPTH>
inline void mfa_write_block(mfa_result_rows<G> rows, mfa_index row, mfa_index count, int block, int column,
                            thread mfa_matrices<float, DEPTH> &sums) {
    if (row >= count)
        return;
    if (has_pages) {
        rows.first = mfa_row_at(rows, row);
        rows.paging = mfa_no_paging();
        row = 0;
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < DEPTH; ++i)
        mfa_write_pair(rows, row, (block * DEPTH + i) * 8 + column,
                       float2(sums.m[i].thread_elements()[0], sums.m[i].thread_elements()[1]));
}

#endif

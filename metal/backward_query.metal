/*
 * The gradient of queries. A threadgroup owns MFA_BQ rows of one head, 8 for each simdgroup:
 *
 *   for each tile of keys that some row sees:
 *     stage keys and values in threadgroup memory
 *     scores = queries . keys, dweights = dout . values
 *     gradients = exp(scores - logsumexp) (dweights - delta)
 *     dquery += gradients . keys
 *
 * Recomputing weights from logsumexp, and delta: FlashAttention-2 (Dao, 2023). Head dimensions beyond MFA_BD are cut into blocks,
 * each with a threadgroup that sums its columns of dquery, after products over all of them.
 */
#include "mfa_backward_queries.h"

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void attention_backward_query(
    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],
    const device MFA_T *key [[buffer(MFA_BUFFER_KEY)]], const device MFA_T *value [[buffer(MFA_BUFFER_VALUE)]],
    const device MFA_DO *dout [[buffer(MFA_BUFFER_DOUT)]],
    const device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP)]],
    const device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]],
    const device uchar *bool_mask [[buffer(MFA_BUFFER_BOOL_MASK), function_constant(has_bool_mask)]],
    const device uchar *additive_mask [[buffer(MFA_BUFFER_ADDITIVE_MASK), function_constant(has_additive_mask)]],
    const device float *alibi_slopes [[buffer(MFA_BUFFER_ALIBI_SLOPES), function_constant(has_alibi)]],
    device MFA_G *dquery [[buffer(MFA_BUFFER_DQUERY)]], uint threadgroup_number [[threadgroup_position_in_grid]],
    uint thread_number [[thread_index_in_threadgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
    threadgroup vec<MFA_T, MFA_VECTOR> staged_keys[STAGED_KEYS];
    threadgroup vec<MFA_T, MFA_VECTOR> staged_values[STAGED_VALUES];

    /* The costliest causal rows, the last, come first. */
    mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index tile_row = (p.query_tiles - 1 - number % p.query_tiles) * MFA_BQ;
    number /= p.query_tiles;
    const int own_block = int(number % MFA_HEAD_BLOCKS);
    number /= MFA_HEAD_BLOCKS;
    const mfa_index head = number % p.heads, batch = number / p.heads, kv_head = head / p.group;
    const mfa_index first_row = tile_row + 8 * simdgroup, lane_row = first_row + mfa_fragment_row(lane);

    mfa_owned_queries queries;
    mfa_own(queries,
            mfa_lane_row_of(mfa_rows_of(query, p.query, batch, head, p.head_dim), lane_row, p.query_count, lane));
    mfa_owned_douts douts;
    mfa_own(douts, mfa_lane_row_of(mfa_rows_of(dout, p.dout, batch, head, p.value_dim), lane_row, p.query_count, lane));
    mfa_visited_keys visited;
    visited.first_rows = mfa_rows_of(key, p.key, batch, kv_head, p.head_dim);
    visited.second_rows = mfa_rows_of(value, p.value, batch, kv_head, p.value_dim);
    visited.first = (threadgroup MFA_T *)staged_keys;
    visited.second = (threadgroup MFA_T *)staged_values;
    visited.count = p.key_count;
    const mfa_head_terms head_terms = mfa_head_terms_of(p, bool_mask, additive_mask, alibi_slopes, batch, head);
    const mfa_row_terms row_terms = mfa_row_terms_of(p, logsumexp, deltas, batch, head, lane_row);

    const mfa_key_span all = mfa_keys_seen_by(p, tile_row, MFA_BQ), own = mfa_keys_seen_by(p, first_row, 8);
    mfa_matrices<float, MFA_HEAD_DEPTH> sums = mfa_zeros<MFA_HEAD_DEPTH>();
    for (mfa_index first_key = all.begin / MFA_BK * MFA_BK; first_key < all.end; first_key += MFA_BK) {
        const bool seen = first_key < own.end && first_key + MFA_BK > own.begin;
        mfa_key_products products = mfa_zeros<KEY_MATRICES>(), dweights = mfa_zeros<KEY_MATRICES>();
        mfa_multiply_visited<MFA_BK, THREADS>(p, queries, douts, visited, first_key, own_block, seen, thread_number,
                                              products, dweights);
        if (seen) {
            const bool clean = mfa_any_not_finite(products);
            mfa_differentiate<false>(p, head_terms, row_terms, first_row, first_key, lane, products, dweights);
            mfa_add_product(products, visited.first, clean, sums);
        }
    }
    mfa_write_block(dquery + mfa_place(p.dquery, batch, head, lane_row), p.dquery.column,
                    lane_row < p.query_count ? p.head_dim : 0, own_block, mfa_fragment_column(lane), sums);
}

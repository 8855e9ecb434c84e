/*
 * The gradient of queries. A threadgroup owns MFA_BQ rows of one head, 8 for each simdgroup:
 *
 *   for each tile of keys that some row sees:
 *     stage keys and values in threadgroup memory
 *     scores = queries . keys, dweights = dout . values
 *     gradients = exp(scores - logsumexp) (dweights - delta)
 *     dquery += gradients . keys
 *
 * Recomputing weights from logsumexp, and delta: FlashAttention-2 (Dao, 2023). Head dimensions beyond MFA_BD are cut
 * into blocks, each with a threadgroup that sums its columns of dquery, after products over all of them.
 */
#include "mfa_backward_queries.h"

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void
attention_backward_query(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_QUERY_ARGUMENTS,
                         MFA_KEY_ARGUMENTS, MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,
                         device MFA_G *dquery [[buffer(MFA_BUFFER_DQUERY)]], MFA_THREAD_ARGUMENTS) {
    threadgroup vec<MFA_T, MFA_VECTOR> staged_keys[STAGED_KEYS];
    threadgroup vec<MFA_T, MFA_VECTOR> staged_values[STAGED_VALUES];

    /* The costliest causal rows, the last, come first. */
    mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index tile_number = p.query_tiles - 1 - number % p.query_tiles;
    number /= p.query_tiles;
    const int own_block = int(number % MFA_HEAD_BLOCKS);
    number /= MFA_HEAD_BLOCKS;
    const mfa_index head = number % p.heads, kv_head = head / p.group;
    const mfa_lists lists = MFA_LISTS;
    const mfa_tile own_tile = mfa_query_tile<MFA_BQ>(p, lists, number / p.heads, tile_number);
    const mfa_sequence sequence = mfa_sequence_of(p, lists, own_tile.sequence);
    const mfa_index query_count = sequence.extent.query_count, tile_row = own_tile.first;
    if (!mfa_tile_exists(own_tile, query_count))
        return;
    const mfa_index first_row = tile_row + 8 * simdgroup, lane_row = first_row + mfa_fragment_row(lane);

    mfa_owned_queries queries;
    mfa_own(queries, mfa_lane_row_of(mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim), lane_row,
                                     query_count, lane));
    mfa_owned_douts douts;
    mfa_own(douts, mfa_lane_row_of(mfa_rows_of(dout, p.dout, sequence.queries, head, p.value_dim), lane_row,
                                   query_count, lane));
    mfa_visited_keys visited;
    visited.first_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);
    visited.second_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);
    visited.first = (threadgroup MFA_T *)staged_keys;
    visited.second = (threadgroup MFA_T *)staged_values;
    visited.count = sequence.extent.key_count;
    const mfa_head_terms head_terms = mfa_head_terms_of(p, MFA_BIASES, sequence, head);
    const mfa_row_terms row_terms = mfa_row_terms_of(p, logsumexp, deltas, sequence, head, lane_row);

    const mfa_walk walk =
        mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(tile_row, tile_row + MFA_BQ));
    const mfa_walk own_walk =
        mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(first_row, first_row + 8));
    mfa_matrices<float, MFA_HEAD_DEPTH> sums = mfa_zeros<MFA_HEAD_DEPTH>();
    for (mfa_index first_key = mfa_walk_first<MFA_BK>(walk); first_key < walk.visited.end;
         first_key = mfa_walk_next<MFA_BK>(walk, first_key + MFA_BK)) {
        const bool is_visited = mfa_walk_visits(own_walk, mfa_span_of(first_key, first_key + MFA_BK));
        mfa_key_products products = mfa_zeros<KEY_MATRICES>(), dweights = mfa_zeros<KEY_MATRICES>();
        mfa_multiply_visited<MFA_BK, THREADS>(p, queries, douts, visited, first_key, own_block, is_visited,
                                              thread_number, products, dweights);
        if (is_visited) {
            const bool dirty = mfa_is_dirty(products);
            mfa_differentiate<false>(p, head_terms, row_terms, first_row, first_key, lane, products, dweights);
            mfa_add_product(products, visited.first, dirty, sums);
        }
    }
    mfa_write_block(mfa_result_rows_of(dquery, p.dquery, sequence.queries, head, p.head_dim), lane_row, query_count,
                    own_block, mfa_fragment_column(lane), sums);
}

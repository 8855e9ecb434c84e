/*
 * The gradients of keys and values. A threadgroup owns MFA_BK keys of one key/value head, 8 for each simdgroup:
 *
 *   for each query head of the group, for each tile of rows that sees some of the keys:
 *     stage queries and dout in threadgroup memory
 *     scores = keys . queries, dweights = values . dout
 *     weights = exp(scores - logsumexp), gradients = weights (dweights - delta)
 *     dvalue += weights . dout, dkey += gradients . queries
 *
 * Rows of a group's heads are summed here in a fixed order, so that no sum needs atomics. Blocks of columns are as for
 * dQ.
 */
#include "mfa_backward_score.h"
#include "mfa_backward_tile.h"

#define THREADS (32 * MFA_SIMDGROUPS)

enum {
    ROW_MATRICES = MFA_BQ / 8,
    STAGED_QUERIES = MFA_BQ * mfa_lead<MFA_T>(MFA_BD) / MFA_VECTOR,
    STAGED_DOUTS = MFA_BQ * mfa_lead<mfa_dout_type>(MFA_DV) / MFA_VECTOR
};

static_assert(MFA_BK == 8 * MFA_SIMDGROUPS, "a simdgroup owns 8 keys");
static_assert(MFA_BQ <= THREADS, "a thread stages what one row knows");
static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0 && MFA_BQ % 8 == 0, "matrices are 8 wide");
static_assert(!MFA_RESIDENT || MFA_BD == MFA_D, "registers are not indexed at run time");

constant bool has_dkey [[function_constant(MFA_CONSTANT_DKEY)]];
constant bool has_dvalue [[function_constant(MFA_CONSTANT_DVALUE)]];
constant bool zeroes_clipped [[function_constant(MFA_CONSTANT_ZERO_CLIPPED)]];

typedef mfa_matrices<float, ROW_MATRICES> row_products;

/* Products of keys and queries become weights, and products of values and dout become gradients of scores. */
template <bool WHOLE>
static inline void differentiate_as(constant mfa_metal_params &p, mfa_head_terms head,
                                    threadgroup const mfa_row_terms *rows, mfa_index first_row, mfa_index key,
                                    int column, thread row_products &products, thread row_products &dweights) {
    mfa_lane_pairs pairs = mfa_whole_pairs();
    if (has_blocks && !WHOLE)
        pairs = mfa_lane_pairs_of<MFA_BQ, true>(head.blocks, key, first_row,
                                                mfa_rule_rows_some_see(head.extent, mfa_span_of(key, key + 1)), column);
#pragma clang loop unroll(full)
    for (int j = 0; j < ROW_MATRICES; ++j)
#pragma clang loop unroll(full)
        for (int i = 0; i < 2; ++i) {
            const int row = j * 8 + column + i; /* of the tile */
            mfa_pair_terms pair = mfa_pair_terms_of<WHOLE>(
                p, head, first_row + row, key, mfa_lane_bit(pairs.visible, j, i), mfa_lane_bit(pairs.full, j, i));
            if (has_dropout)
                pair.drop_factor = mfa_dropout_factor(head.dropout, first_row + row, key);
            const mfa_score_gradient found =
                mfa_score_gradient_of<false>(p.softmax_scale, head, products.m[j].thread_elements()[i],
                                             dweights.m[j].thread_elements()[i], rows[row], pair);
            products.m[j].thread_elements()[i] = found.weight;
            dweights.m[j].thread_elements()[i] = found.gradient;
        }
}

/* Zeroes the gradients of a row's codes that are at an end of the range that quantising has, which leaves out the lowest
   of signed codes without zero points. */
template <int DEPTH>
static inline void zero_clipped(mfa_coding<false>, mfa_rows<MFA_T>, mfa_index, mfa_index, int, int,
                                thread mfa_matrices<float, DEPTH> &) {}
template <typename S, int DEPTH>
static inline void zero_clipped(mfa_coding<true> coding, mfa_rows<S> rows, mfa_index row, mfa_index count, int block,
                                int column, thread mfa_matrices<float, DEPTH> &sums) {
    if (!zeroes_clipped || row >= count)
        return;
    const bool is_symmetric = mfa_storage<S>::lowest < 0 && (coding.kind & MFA_CODES_ZERO_POINTS) == 0;
    const float lowest = mfa_storage<S>::lowest + (is_symmetric ? 1 : 0), highest = mfa_storage<S>::highest;
    const device S *codes = mfa_row_at(rows, row);
#pragma clang loop unroll(full)
    for (int i = 0; i < DEPTH; ++i)
        for (int e = 0; e < 2; ++e) {
            const int place = (block * DEPTH + i) * 8 + column + e;
            if (place >= rows.length)
                continue;
            const float code = mfa_code_at(codes, place * rows.column_stride);
            if (code <= lowest || code >= highest)
                sums.m[i].thread_elements()[e] = 0;
        }
}

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void
attention_backward_key(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_QUERY_ARGUMENTS,
                       MFA_KEY_ARGUMENTS, MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,
                       device MFA_G *dkey [[buffer(MFA_BUFFER_DKEY), function_constant(has_dkey)]],
                       device MFA_GV *dvalue [[buffer(MFA_BUFFER_DVALUE), function_constant(has_dvalue)]],
                       MFA_THREAD_ARGUMENTS) {
    threadgroup vec<MFA_T, MFA_VECTOR> staged_queries[STAGED_QUERIES];
    threadgroup vec<mfa_dout_type, MFA_VECTOR> staged_douts[STAGED_DOUTS];
    threadgroup mfa_row_terms
        staged_terms[2][MFA_BQ]; /* of this tile and the one before, which others may still read */

    const int blocks = MFA_RESIDENT ? 1 : max(int(MFA_HEAD_BLOCKS), int(p.value_blocks));
    mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index tile_number = number % p.key_tiles;
    number /= p.key_tiles;
    const int own_block = int(number % blocks);
    number /= blocks;
    const mfa_index kv_head = number % p.kv_heads;
    const mfa_lists lists = MFA_LISTS;
    const mfa_tile own_tile = mfa_key_tile<MFA_BK>(p, lists, number / p.kv_heads, tile_number);
    const mfa_sequence sequence = mfa_sequence_of(p, lists, own_tile.sequence);
    const mfa_index key_count = sequence.extent.key_count, tile_key = own_tile.first;
    if (!mfa_tile_exists(own_tile, key_count))
        return;
    const mfa_index first_key = tile_key + 8 * simdgroup, lane_key = first_key + mfa_fragment_row(lane);
    const int column = mfa_fragment_column(lane);

    const mfa_rows<MFA_K> key_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);
    const mfa_rows<MFA_V> value_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);
    mfa_owned_rows<MFA_T, MFA_K, MFA_HEAD_DEPTH> keys;
    mfa_own(keys, mfa_lane_row_of(key_rows, lane_key, key_count, lane));
    mfa_owned_rows<MFA_T, MFA_V, MFA_VALUE_DEPTH> values;
    mfa_own(values, mfa_lane_row_of(value_rows, lane_key, key_count, lane));
    mfa_visited_rows<MFA_T, MFA_T, mfa_dout_type, MFA_DO> visited;
    visited.first = (threadgroup MFA_T *)staged_queries;
    visited.second = (threadgroup mfa_dout_type *)staged_douts;
    visited.count = sequence.extent.query_count;

    const mfa_span tile_keys = mfa_span_of(tile_key, tile_key + MFA_BK);
    const mfa_span own_keys = mfa_span_of(first_key, first_key + 8);
    mfa_matrices<float, MFA_HEAD_DEPTH> dkey_sums = mfa_zeros<MFA_HEAD_DEPTH>();
    mfa_matrices<float, MFA_VALUE_DEPTH> dvalue_sums = mfa_zeros<MFA_VALUE_DEPTH>();
    int turn = 0;
    for (mfa_index head = kv_head * p.group; head < (kv_head + 1) * p.group; ++head) {
        visited.first_rows = mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim);
        visited.second_rows = mfa_rows_of(dout, p.dout, sequence.queries, head, p.value_dim);
        const mfa_head_terms head_terms = mfa_head_terms_of(p, MFA_BIASES, sequence, head);
        const mfa_walk walk = mfa_walk_over_rows(head_terms.extent, head_terms.blocks, tile_keys);
        const mfa_walk own_walk = mfa_walk_over_rows(head_terms.extent, head_terms.blocks, own_keys);
        for (mfa_index first_row = mfa_walk_first<MFA_BQ>(walk); first_row < walk.visited.end;
             first_row = mfa_walk_next<MFA_BQ>(walk, first_row + MFA_BQ)) {
            const mfa_span tile_rows = mfa_span_of(first_row, first_row + MFA_BQ);
            const bool is_visited = mfa_walk_visits(own_walk, tile_rows);
            threadgroup mfa_row_terms *terms = staged_terms[turn];
            turn ^= 1;
            if (thread_number < MFA_BQ)
                terms[thread_number] =
                    mfa_row_terms_of(p, logsumexp, deltas, sequence, head, first_row + thread_number);
            row_products products = mfa_zeros<ROW_MATRICES>(), dweights = mfa_zeros<ROW_MATRICES>();
            mfa_multiply_visited<MFA_BQ, THREADS>(p, keys, values, visited, first_row, own_block, is_visited,
                                                  thread_number, products, dweights);
            if (is_visited) {
                const bool dirty_queries = mfa_is_dirty(products), dirty_douts = mfa_is_dirty(dweights);
                if (mfa_scores_are_whole(head_terms, tile_rows, own_keys))
                    differentiate_as<true>(p, head_terms, terms, first_row, lane_key, column, products, dweights);
                else
                    differentiate_as<false>(p, head_terms, terms, first_row, lane_key, column, products, dweights);
                if (has_dvalue)
                    mfa_add_product(products, visited.second, dirty_douts, dvalue_sums);
                if (has_dkey)
                    mfa_add_product(dweights, visited.first, dirty_queries, dkey_sums);
            }
        }
    }
    zero_clipped(key_rows.coding, key_rows, lane_key, key_count, own_block, column, dkey_sums);
    zero_clipped(value_rows.coding, value_rows, lane_key, key_count, own_block, column, dvalue_sums);
    if (has_dkey)
        mfa_write_block(mfa_cache_result_rows_of(dkey, p, p.dkey, sequence, kv_head, p.head_dim), lane_key, key_count,
                        own_block, column, dkey_sums);
    if (has_dvalue)
        mfa_write_block(mfa_cache_result_rows_of(dvalue, p, p.dvalue, sequence, kv_head, p.value_dim), lane_key,
                        key_count, own_block, column, dvalue_sums);
}

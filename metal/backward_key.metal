/*
 * The gradients of keys and values. A threadgroup owns MFA_BK keys of one key/value head, 8 for each simdgroup:
 *
 *   for each query head of the group, for each tile of rows that sees some of the keys:
 *     stage queries and dout in threadgroup memory
 *     scores = keys . queries, dweights = values . dout
 *     weights = exp(scores - logsumexp), gradients = weights (dweights - delta)
 *     dvalue += weights . dout, dkey += gradients . queries
 *
 * Rows of a group's heads are summed here in a fixed order, so that no sum needs atomics. Blocks of columns are as for dQ.
 */
#include "mfa_backward_score.h"
#include "mfa_backward_tile.h"

#define THREADS (32 * MFA_SIMDGROUPS)

enum {
    ROW_MATRICES = MFA_BQ / 8,
    STAGED_QUERIES = MFA_BQ * mfa_backward_lead<MFA_T>(MFA_BD) / MFA_VECTOR,
    STAGED_DOUTS = MFA_BQ * mfa_backward_lead<mfa_dout_type>(MFA_DV) / MFA_VECTOR
};

static_assert(MFA_BK == 8 * MFA_SIMDGROUPS, "a simdgroup owns 8 keys");
static_assert(MFA_BQ <= THREADS, "a thread stages what one row knows");
static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0 && MFA_BQ % 8 == 0, "matrices are 8 wide");
static_assert(!MFA_KEEP_QUERY || MFA_BD == MFA_D, "registers are not indexed at run time");

constant bool has_dkey [[function_constant(MFA_CONSTANT_DKEY)]];
constant bool has_dvalue [[function_constant(MFA_CONSTANT_DVALUE)]];

typedef mfa_matrices<float, ROW_MATRICES> row_products;

/* The rows that see some of the keys, as far as causal and window bounds tell. */
struct row_span {
    mfa_index begin, end;
};

static inline row_span rows_that_see(constant mfa_metal_params &p, mfa_index first_key, int keys) {
    const mfa_index last_key = min(first_key + keys, p.key_count) - 1;
    row_span span;
    span.begin = p.window_right < 0 ? 0 : max(first_key - p.offset - p.window_right, mfa_index(0));
    span.end = p.window_left < 0 ? p.query_count : min(last_key - p.offset + p.window_left + 1, p.query_count);
    if (last_key < first_key)
        span.end = span.begin;
    return span;
}

/* Products of keys and queries become weights, and products of values and dout become gradients of scores. */
template <bool WHOLE>
static inline void differentiate_as(constant mfa_metal_params &p, mfa_head_terms head,
                                    threadgroup const mfa_row_terms *rows, mfa_index first_row, mfa_index key,
                                    int column, thread row_products &products, thread row_products &dweights) {
#pragma clang loop unroll(full)
    for (int j = 0; j < ROW_MATRICES; ++j)
#pragma clang loop unroll(full)
        for (int i = 0; i < 2; ++i) {
            const int at = j * 8 + column + i;
            mfa_pair_terms pair = mfa_pair_terms_of<WHOLE>(p, head, first_row + at, key);
            if (has_dropout)
                pair.keep = mfa_rule_dropout_bits(head.dropout.key, head.batch, head.head, first_row + at, key) <
                                    head.dropout.threshold
                                ? 0.0f
                                : head.dropout.factor;
            const mfa_score_gradient found =
                mfa_score_gradient_of<false>(p, head.factor, products.at[j].thread_elements()[i],
                                             dweights.at[j].thread_elements()[i], rows[at], pair);
            products.at[j].thread_elements()[i] = found.weight;
            dweights.at[j].thread_elements()[i] = found.gradient;
        }
}

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void attention_backward_key(
    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],
    const device MFA_T *key [[buffer(MFA_BUFFER_KEY)]], const device MFA_T *value [[buffer(MFA_BUFFER_VALUE)]],
    const device MFA_DO *dout [[buffer(MFA_BUFFER_DOUT)]],
    const device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP)]],
    const device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]],
    const device uchar *bool_mask [[buffer(MFA_BUFFER_BOOL_MASK), function_constant(has_bool_mask)]],
    const device uchar *additive_mask [[buffer(MFA_BUFFER_ADDITIVE_MASK), function_constant(has_additive_mask)]],
    const device float *alibi_slopes [[buffer(MFA_BUFFER_ALIBI_SLOPES), function_constant(has_alibi)]],
    device MFA_G *dkey [[buffer(MFA_BUFFER_DKEY), function_constant(has_dkey)]],
    device MFA_GV *dvalue [[buffer(MFA_BUFFER_DVALUE), function_constant(has_dvalue)]],
    uint threadgroup_number [[threadgroup_position_in_grid]], uint thread_number [[thread_index_in_threadgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    threadgroup vec<MFA_T, MFA_VECTOR> staged_queries[STAGED_QUERIES];
    threadgroup vec<mfa_dout_type, MFA_VECTOR> staged_douts[STAGED_DOUTS];
    threadgroup mfa_row_terms
        staged_terms[2][MFA_BQ]; /* of this tile and the one before, which others may still read */

    const int blocks = MFA_KEEP_QUERY ? 1 : max(int(MFA_HEAD_BLOCKS), int(p.value_blocks));
    mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index tile_key = number % p.key_tiles * MFA_BK;
    number /= p.key_tiles;
    const int own_block = int(number % blocks);
    number /= blocks;
    const mfa_index kv_head = number % p.kv_heads, batch = number / p.kv_heads;
    const mfa_index first_key = tile_key + 8 * simdgroup, lane_key = first_key + mfa_fragment_row(lane);
    const int column = mfa_fragment_column(lane);

    mfa_owned_rows<MFA_T, MFA_T, MFA_HEAD_DEPTH> keys;
    mfa_own(keys, mfa_lane_row_of(mfa_rows_of(key, p.key, batch, kv_head, p.head_dim), lane_key, p.key_count, lane));
    mfa_owned_rows<MFA_T, MFA_T, MFA_VALUE_DEPTH> values;
    mfa_own(values,
            mfa_lane_row_of(mfa_rows_of(value, p.value, batch, kv_head, p.value_dim), lane_key, p.key_count, lane));
    mfa_visited_rows<MFA_T, MFA_T, mfa_dout_type, MFA_DO> visited;
    visited.first = (threadgroup MFA_T *)staged_queries;
    visited.second = (threadgroup mfa_dout_type *)staged_douts;
    visited.count = p.query_count;

    const row_span all = rows_that_see(p, tile_key, MFA_BK), own = rows_that_see(p, first_key, 8);
    mfa_matrices<float, MFA_HEAD_DEPTH> dkey_sums = mfa_zeros<MFA_HEAD_DEPTH>();
    mfa_matrices<float, MFA_VALUE_DEPTH> dvalue_sums = mfa_zeros<MFA_VALUE_DEPTH>();
    int turn = 0;
    for (mfa_index head = kv_head * p.group; head < (kv_head + 1) * p.group; ++head) {
        visited.first_rows = mfa_rows_of(query, p.query, batch, head, p.head_dim);
        visited.second_rows = mfa_rows_of(dout, p.dout, batch, head, p.value_dim);
        const mfa_head_terms head_terms = mfa_head_terms_of(p, bool_mask, additive_mask, alibi_slopes, batch, head);
        for (mfa_index first_row = all.begin / MFA_BQ * MFA_BQ; first_row < all.end; first_row += MFA_BQ) {
            const bool seen = first_row < own.end && first_row + MFA_BQ > own.begin;
            threadgroup mfa_row_terms *terms = staged_terms[turn];
            turn ^= 1;
            if (thread_number < MFA_BQ)
                terms[thread_number] = mfa_row_terms_of(p, logsumexp, deltas, batch, head, first_row + thread_number);
            row_products products = mfa_zeros<ROW_MATRICES>(), dweights = mfa_zeros<ROW_MATRICES>();
            mfa_multiply_visited<MFA_BQ, THREADS>(p, keys, values, visited, first_row, own_block, seen, thread_number,
                                                  products, dweights);
            if (seen) {
                const bool clean_queries = mfa_any_not_finite(products), clean_douts = mfa_any_not_finite(dweights);
                if (mfa_tile_is_whole(p, first_row, MFA_BQ, first_key, 8))
                    differentiate_as<true>(p, head_terms, terms, first_row, lane_key, column, products, dweights);
                else
                    differentiate_as<false>(p, head_terms, terms, first_row, lane_key, column, products, dweights);
                if (has_dvalue)
                    mfa_add_product(products, visited.second, clean_douts, dvalue_sums);
                if (has_dkey)
                    mfa_add_product(dweights, visited.first, clean_queries, dkey_sums);
            }
        }
    }
    const bool exists = lane_key < p.key_count;
    if (has_dkey)
        mfa_write_block(dkey + mfa_place(p.dkey, batch, kv_head, lane_key), p.dkey.column, exists ? p.head_dim : 0,
                        own_block, column, dkey_sums);
    if (has_dvalue)
        mfa_write_block(dvalue + mfa_place(p.dvalue, batch, kv_head, lane_key), p.dvalue.column,
                        exists ? p.value_dim : 0, own_block, column, dvalue_sums);
}

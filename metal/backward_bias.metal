/*
 * The gradient of the additive mask. A threadgroup owns a tile of it, or an element or a row of elements where it is
 * broadcast over rows or keys, and adds up the gradients of all scores that it was added to, in a fixed order:
 *
 *   for each batch and head that the mask was broadcast to, for each tile of rows, for each tile of keys:
 *     gradients = exp(scores - logsumexp) (dweights - delta), added to the same places of the tile before
 *   add up rows, keys or both, and write
 */
#include "mfa_backward_queries.h"

enum { TILE_SCORES = MFA_BQ * MFA_BK };

/* The places along an axis, `count` in all, that a threadgroup adds up: all of them where the gradient has size 1. */
static inline mfa_span summed(mfa_index size, mfa_index count, mfa_index own) {
    return size == 1 ? mfa_span_of(0, count) : mfa_span_of(own, own + 1);
}

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void
attention_backward_bias(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_QUERY_ARGUMENTS,
                        MFA_KEY_ARGUMENTS, MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,
                        device MFA_G *dbias [[buffer(MFA_BUFFER_DBIAS)]], MFA_THREAD_ARGUMENTS) {
    threadgroup vec<MFA_T, MFA_VECTOR> staged_keys[STAGED_KEYS];
    threadgroup vec<MFA_T, MFA_VECTOR> staged_values[STAGED_VALUES];
    threadgroup float tile[TILE_SCORES];

    const bool sum_rows = p.dbias_size.row == 1, sum_keys = p.dbias_size.column == 1;
    mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index own_keys = sum_keys ? 1 : p.key_tiles, own_rows = sum_rows ? 1 : p.query_tiles;
    const mfa_index key_tile = number % own_keys;
    number /= own_keys;
    const mfa_index row_tile = number % own_rows;
    number /= own_rows;
    const mfa_index own_head = number % p.dbias_size.head, own_batch = number / p.dbias_size.head;
    const mfa_span batches = summed(p.dbias_size.batch, p.batch, own_batch);
    const mfa_span heads = summed(p.dbias_size.head, p.heads, own_head);
    const mfa_span row_tiles = summed(p.dbias_size.row, p.query_tiles, row_tile);
    const mfa_span key_tiles = summed(p.dbias_size.column, p.key_tiles, key_tile);

    mfa_visited_keys visited;
    visited.first = (threadgroup MFA_T *)staged_keys;
    visited.second = (threadgroup MFA_T *)staged_values;
    mfa_key_products sums = mfa_zeros<KEY_MATRICES>();
    for (mfa_index batch = batches.begin; batch < batches.end; ++batch) {
        const mfa_sequence sequence = mfa_sequence_of(p, MFA_LISTS, batch);
        const mfa_index query_count = sequence.extent.query_count;
        visited.count = sequence.extent.key_count;
        for (mfa_index head = heads.begin; head < heads.end; ++head) {
            const mfa_index kv_head = head / p.group;
            visited.first_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);
            visited.second_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);
            const mfa_head_terms head_terms = mfa_head_terms_of(p, MFA_BIASES, sequence, head);
            for (mfa_index i = row_tiles.begin; i < row_tiles.end; ++i) {
                const mfa_index tile_row = i * MFA_BQ, first_row = tile_row + 8 * simdgroup;
                const mfa_index lane_row = first_row + mfa_fragment_row(lane);
                mfa_walk walk =
                    mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(tile_row, tile_row + MFA_BQ));
                walk.visited =
                    mfa_span_cut(walk.visited, mfa_span_of(key_tiles.begin * MFA_BK, key_tiles.end * MFA_BK));
                const mfa_walk own_walk =
                    mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(first_row, first_row + 8));
                mfa_index first_key = mfa_walk_first<MFA_BK>(walk);
                if (first_key >= walk.visited.end)
                    continue;
                mfa_owned_queries queries;
                mfa_own(queries, mfa_lane_row_of(mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim),
                                                 lane_row, query_count, lane));
                mfa_owned_douts douts;
                mfa_own(douts, mfa_lane_row_of(mfa_rows_of(dout, p.dout, sequence.queries, head, p.value_dim), lane_row,
                                               query_count, lane));
                const mfa_row_terms row_terms = mfa_row_terms_of(p, logsumexp, deltas, sequence, head, lane_row);
                for (; first_key < walk.visited.end; first_key = mfa_walk_next<MFA_BK>(walk, first_key + MFA_BK)) {
                    const bool is_visited = mfa_walk_visits(own_walk, mfa_span_of(first_key, first_key + MFA_BK));
                    mfa_key_products products = mfa_zeros<KEY_MATRICES>(), dweights = mfa_zeros<KEY_MATRICES>();
                    mfa_multiply_visited<MFA_BK, THREADS>(p, queries, douts, visited, first_key, 0, is_visited,
                                                          thread_number, products, dweights);
                    if (is_visited) {
                        mfa_differentiate<true>(p, head_terms, row_terms, first_row, first_key, lane, products,
                                                dweights);
                        for (int j = 0; j < KEY_MATRICES; ++j)
                            for (int e = 0; e < 2; ++e)
                                sums.m[j].thread_elements()[e] += products.m[j].thread_elements()[e];
                    }
                }
            }
        }
    }

    for (int j = 0; j < KEY_MATRICES; ++j)
        simdgroup_store(sums.m[j], tile + 8 * simdgroup * MFA_BK + 8 * j, MFA_BK);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    /* Each place of what is written adds up a part of the tile. */
    const int row_step = sum_rows ? MFA_BQ : 1, key_step = sum_keys ? MFA_BK : 1;
    const int row_places = MFA_BQ / row_step, key_places = MFA_BK / key_step;
    const mfa_index first_row = row_tile * MFA_BQ, first_key = key_tile * MFA_BK;
    for (int place = int(thread_number); place < row_places * key_places; place += THREADS) {
        const int row = place / key_places, column = place % key_places;
        float sum = 0;
        for (int r = 0; r < row_step; ++r)
            for (int k = 0; k < key_step; ++k)
                sum += tile[(row + r) * MFA_BK + column + k];
        if (first_row + row < p.dbias_size.row && first_key + column < p.dbias_size.column)
            dbias[mfa_place(p.dbias, own_batch, own_head, first_row + row) + (first_key + column) * p.dbias.column] =
                MFA_G(sum);
    }
}

/*
 * The forward pass. A threadgroup computes MFA_BQ rows of one head, each simdgroup some of them:
 *
 *   for each tile of keys that some row sees:
 *     stage keys, transposed, and values in threadgroup memory
 *     scores = queries . keys                    (of rows that see the tile)
 *     weights = exp(scores - running maximum), running sums
 *     out = out * correction + weights . values
 *   divide, and write out and logsumexp
 *
 * Queries, scores and out are fragments in registers. Queries outside, keys inside: FlashAttention-2 (Dao, 2023). A
 * simdgroup has whole rows, so that it alone needs their maximum, as in MLX's steel attention.
 */
#include "mfa_integers.h"
#include "mfa_softmax.h"

enum {
    THREADS = 32 * MFA_SIMDGROUPS,
    SIMDGROUP_ROWS = MFA_BQ / MFA_SIMDGROUPS,
    ROW_FRAGMENTS = MFA_BQ / MFA_SIMDGROUPS / 8,
    KEY_FRAGMENTS = MFA_BK / 8,
    BLOCK_FRAGMENTS = MFA_BD / 8,
    DEPTH_BLOCKS = MFA_D / MFA_BD,
    VALUE_FRAGMENTS = MFA_DV / 8,
    KEY_LEAD = mfa_lead<MFA_T>(MFA_BK),
    VALUE_LEAD = mfa_lead<MFA_T>(MFA_DV),
    KEY_PIECES = MFA_BD * mfa_lead<MFA_T>(MFA_BK) / MFA_VECTOR,
    VALUE_PIECES = MFA_BK * mfa_lead<MFA_T>(MFA_DV) / MFA_VECTOR
};

static_assert(MFA_BQ % (8 * MFA_SIMDGROUPS) == 0, "each simdgroup has whole fragments of rows");
static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0, "matrices are 8 wide");
static_assert(!MFA_RESIDENT || MFA_BD == MFA_D, "registers are not indexed at run time");

/* A fragment of queries; rows beyond the last are zero. */
static inline vec<MFA_T, 2> read_query(mfa_rows<MFA_T> queries, mfa_index row, mfa_index query_count, int column) {
    return row < query_count ? mfa_read<2>(queries, row, column) : vec<MFA_T, 2>(MFA_T(0));
}

/* Adds products of fragments of queries and of staged keys; `columns`: what this lane has of the first of these. */
static inline void add_products(thread vec<MFA_T, 2> (&queries)[ROW_FRAGMENTS], const threadgroup MFA_T *columns,
                                thread float2 (&scores)[ROW_FRAGMENTS][KEY_FRAGMENTS]) {
#pragma unroll
    for (int f = 0; f < KEY_FRAGMENTS; ++f) {
        const vec<MFA_T, 2> some = mfa_read_staged(columns + 8 * f);
#pragma unroll
        for (int r = 0; r < ROW_FRAGMENTS; ++r)
            scores[r][f] = mfa_multiply_add<MFA_T, MFA_T>(queries[r], some, scores[r][f]);
    }
}

[[kernel, max_total_threads_per_threadgroup(32 * MFA_SIMDGROUPS)]] void
attention_forward(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_FORWARD_ARGUMENTS, MFA_KEY_ARGUMENTS,
                  MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS, device MFA_O *out [[buffer(MFA_BUFFER_OUT)]],
                  device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP), function_constant(has_logsumexp)]],
                  const device float *sinks [[buffer(MFA_BUFFER_SINKS), function_constant(has_sinks)]],
                  const device float *value_scale
                  [[buffer(MFA_BUFFER_VALUE_SCALE), function_constant(has_value_scale)]],
                  MFA_THREAD_ARGUMENTS) {
    threadgroup vec<MFA_T, MFA_VECTOR> staged_keys[KEY_PIECES];
    threadgroup vec<MFA_T, MFA_VECTOR> staged_values[VALUE_PIECES];
    threadgroup uint votes[2][MFA_SIMDGROUPS], not_finite[MFA_SIMDGROUPS];
    threadgroup MFA_T *keys = (threadgroup MFA_T *)staged_keys, *values = (threadgroup MFA_T *)staged_values;

    /* The costliest causal rows, the last, come first. */
    mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index tile_number = p.query_tiles - 1 - number % p.query_tiles;
    number /= p.query_tiles;
    const mfa_index value_block = number % p.value_blocks;
    number /= p.value_blocks;
    const mfa_index head = number % p.heads, kv_head = head / p.group;
    const mfa_lists lists = MFA_LISTS;
    const mfa_tile own_tile = mfa_query_tile<MFA_BQ>(p, lists, number / p.heads, tile_number);
    const mfa_sequence sequence = mfa_sequence_of(p, lists, own_tile.sequence);
    const mfa_extent extent = sequence.extent;
    const mfa_index batch = sequence.number, first_row = own_tile.first, query_count = extent.query_count;
    if (!mfa_tile_exists(own_tile, query_count))
        return;

    const mfa_biases biases = MFA_BIASES;
    const mfa_blocks blocks = mfa_blocks_of(p, biases, batch, head);
    const mfa_rows<MFA_T> queries = mfa_query_rows(p, MFA_QUERIES, sequence, head);
    mfa_rows<MFA_T> query_values;
    if (has_query_value)
        query_values = mfa_query_value_rows(p, MFA_QUERIES, sequence, head);
    const mfa_rows<MFA_K> key_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);
    const mfa_rows<MFA_V> value_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);
    const mfa_scoring scoring = mfa_scaled(p, mfa_scoring_of(p, biases, sequence, head), MFA_QUERIES, batch, kv_head);

    /* This lane's first row, and its columns in each fragment; further rows are 8 apart. */
    const int fragment_row = mfa_fragment_row(lane), fragment_column = mfa_fragment_column(lane);
    const mfa_index simdgroup_row = first_row + SIMDGROUP_ROWS * simdgroup, lane_row = simdgroup_row + fragment_row;

    mfa_softmax_row rows[ROW_FRAGMENTS];
    mfa_metal_query_terms rounded[ROW_FRAGMENTS];
    mfa_mask_row mask_rows[ROW_FRAGMENTS];
#pragma unroll
    for (int r = 0; r < ROW_FRAGMENTS; ++r) {
        const mfa_index row = lane_row + 8 * r;
        rows[r] = mfa_softmax_row_of(row, mfa_rule_keys_some_see(extent, mfa_span_of(row, row + 1)));
        if (has_mask)
            mask_rows[r] = mfa_mask_row_of(p, biases, batch, head, min(row, query_count - 1));
        if (has_integer_keys)
            rounded[r] = mfa_query_terms_of(p, MFA_QUERIES, sequence, head, min(row, query_count - 1));
    }
    const mfa_walk walk = mfa_walk_over_keys(extent, blocks, mfa_span_of(first_row, first_row + MFA_BQ));
    const mfa_walk own_walk =
        mfa_walk_over_keys(extent, blocks, mfa_span_of(simdgroup_row, simdgroup_row + SIMDGROUP_ROWS));

#if MFA_RESIDENT
    vec<MFA_T, 2> resident_query[ROW_FRAGMENTS][BLOCK_FRAGMENTS];
#pragma unroll
    for (int r = 0; r < ROW_FRAGMENTS; ++r)
#pragma unroll
        for (int d = 0; d < BLOCK_FRAGMENTS; ++d)
            resident_query[r][d] = read_query(queries, lane_row + 8 * r, query_count, 8 * d + fragment_column);
#endif

    float2 sums[ROW_FRAGMENTS][VALUE_FRAGMENTS];
#pragma unroll
    for (int r = 0; r < ROW_FRAGMENTS; ++r)
#pragma unroll
        for (int c = 0; c < VALUE_FRAGMENTS; ++c)
            sums[r][c] = float2(0);

    uint round = 0;
    for (mfa_index first_key = mfa_walk_first<MFA_BK>(walk); first_key < walk.visited.end;
         first_key = mfa_walk_next<MFA_BK>(walk, first_key + MFA_BK)) {
        const mfa_span tile = mfa_span_of(first_key, first_key + MFA_BK);
        const bool whole = mfa_span_holds(mfa_rule_keys_all_see(extent, own_walk.own), tile);
        bool is_visited = mfa_walk_visits(own_walk, tile); /* by this simdgroup */

        mfa_lane_pairs pairs[ROW_FRAGMENTS];
        if (has_blocks && is_visited) {
            const bool blocks_are_whole = whole && mfa_blocks_are_whole(blocks, own_walk.own, tile);
#pragma unroll
            for (int r = 0; r < ROW_FRAGMENTS; ++r)
                pairs[r] = blocks_are_whole ? mfa_whole_pairs()
                                            : mfa_lane_pairs_of<MFA_BK, false>(blocks, rows[r].row, first_key,
                                                                               rows[r].keys, fragment_column);
        }

        float2 mask_bias[ROW_FRAGMENTS][KEY_FRAGMENTS];
        if (has_mask) {
            bool any = false;
            if (is_visited)
#pragma unroll
                for (int r = 0; r < ROW_FRAGMENTS; ++r)
                    any |= mfa_read_bias(mask_rows[r], pairs[r], rows[r], first_key, fragment_column, mask_bias[r]);
            is_visited = simd_any(any);
            round ^= 1;
            if (lane == 0)
                votes[round][simdgroup] = is_visited;
        }

        float2 scores[ROW_FRAGMENTS][KEY_FRAGMENTS];
#pragma unroll
        for (int r = 0; r < ROW_FRAGMENTS; ++r)
#pragma unroll
            for (int f = 0; f < KEY_FRAGMENTS; ++f)
                scores[r][f] = float2(0);

        bool is_staged = true;
        for (int block = 0; block < DEPTH_BLOCKS && is_staged; ++block) {
            threadgroup_barrier(mem_flags::mem_threadgroup);
            if (has_mask) {
                uint all_votes = 0;
                for (int s = 0; s < MFA_SIMDGROUPS; ++s)
                    all_votes |= votes[round][s];
                is_staged = all_votes != 0;
            }
            if (is_staged) {
                const mfa_span part = mfa_walk_part(walk, first_key, MFA_BK);
                const int begin = int(part.begin), end = int(part.end);
                mfa_stage<MFA_BK, MFA_BD, true, false, THREADS>(keys, key_rows, first_key, begin, end, block * MFA_BD,
                                                                thread_number);
                if (block == DEPTH_BLOCKS - 1) {
                    const bool found = simd_any(mfa_stage<MFA_BK, MFA_DV, false, true, THREADS>(
                        values, value_rows, first_key, begin, end, int(value_block) * MFA_DV, thread_number));
                    if (lane == 0)
                        not_finite[simdgroup] = found;
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
                if (is_visited)
#if MFA_RESIDENT
#pragma unroll
#endif
                    for (int d = 0; d < BLOCK_FRAGMENTS; ++d) {
                        vec<MFA_T, 2> part[ROW_FRAGMENTS];
#pragma unroll
                        for (int r = 0; r < ROW_FRAGMENTS; ++r) {
#if MFA_RESIDENT
                            part[r] = resident_query[r][d];
#else
                            part[r] = read_query(queries, lane_row + 8 * r, query_count,
                                                 block * MFA_BD + 8 * d + fragment_column);
#endif
                        }
                        add_products(part, keys + (8 * d + fragment_row) * KEY_LEAD + fragment_column, scores);
                    }
            }
        }
        /* Values take the place of keys. */
        for (int column = 0; has_query_value && is_staged && column < value_rows.length; column += MFA_BD) {
            const mfa_span part = mfa_walk_part(walk, first_key, MFA_BK);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            mfa_stage<MFA_BK, MFA_BD, true, false, THREADS>(keys, value_rows, first_key, int(part.begin), int(part.end),
                                                            column, thread_number);
            threadgroup_barrier(mem_flags::mem_threadgroup);
            for (int d = 0; d < BLOCK_FRAGMENTS && is_visited; ++d) {
                vec<MFA_T, 2> part[ROW_FRAGMENTS];
#pragma unroll
                for (int r = 0; r < ROW_FRAGMENTS; ++r)
                    part[r] = read_query(query_values, lane_row + 8 * r, query_count, column + 8 * d + fragment_column);
                add_products(part, keys + (8 * d + fragment_row) * KEY_LEAD + fragment_column, scores);
            }
        }
        if (!is_visited)
            continue;

        uint any_not_finite = 0, hidden[ROW_FRAGMENTS];
        float correction[ROW_FRAGMENTS], weight_scale[ROW_FRAGMENTS];
        for (int s = 0; s < MFA_SIMDGROUPS; ++s)
            any_not_finite |= not_finite[s];
#pragma unroll
        for (int r = 0; r < ROW_FRAGMENTS; ++r) {
            if (has_integer_keys)
                mfa_scale_products(key_rows, rounded[r], rows[r].keys, first_key, fragment_column, scores[r]);
            mfa_score_row(scoring, pairs[r], rows[r], whole, first_key, fragment_column, mask_bias[r], scores[r]);
            if (any_not_finite != 0)
                hidden[r] = mfa_hidden_keys(scores[r]);
            correction[r] = mfa_weigh_row(rows[r], scores[r]);
            if (has_dropout)
                mfa_drop_row(mfa_dropout_of(p, batch, head), rows[r].row, first_key, fragment_column, scores[r]);
            if (has_integer_values)
                weight_scale[r] = mfa_round_weights(value_rows, rows[r].keys, first_key, fragment_column, scores[r]);
        }
        /* Each tile has a sum of its own: long sums of floats lose digits. */
#pragma unroll
        for (int c = 0; c < VALUE_FRAGMENTS; ++c) {
            float2 tile_sums[ROW_FRAGMENTS];
#pragma unroll
            for (int r = 0; r < ROW_FRAGMENTS; ++r)
                tile_sums[r] = float2(0);
#pragma unroll
            for (int f = 0; f < KEY_FRAGMENTS; ++f) {
                const vec<MFA_T, 2> part =
                    mfa_read_staged(values + (8 * f + fragment_row) * VALUE_LEAD + 8 * c + fragment_column);
#pragma unroll
                for (int r = 0; r < ROW_FRAGMENTS; ++r)
                    tile_sums[r] = mfa_add_weighted(scores[r][f], part, tile_sums[r]);
            }
#pragma unroll
            for (int r = 0; r < ROW_FRAGMENTS; ++r) {
                if (has_integer_values)
                    tile_sums[r] *= weight_scale[r];
                sums[r][c] = fma(sums[r][c], float2(correction[r]), tile_sums[r]);
            }
        }
        if (any_not_finite != 0)
#pragma unroll
            for (int r = 0; r < ROW_FRAGMENTS; ++r)
                mfa_add_not_finite<1>(value_rows, first_key, walk.visited, int(value_block) * MFA_DV, lane, hidden[r],
                                      scores[r], sums[r]);
    }

    const mfa_result_rows<MFA_O> outs = mfa_result_rows_of(out, p.out, sequence.queries, head, p.value_dim);
    const float sink = has_sinks ? sinks[head * p.sinks.head] : -INFINITY;
    const float value_factor = has_value_scale ? mfa_factor(value_scale, p.value_scale, batch, kv_head) : 1.0f;
#pragma unroll
    for (int r = 0; r < ROW_FRAGMENTS; ++r) {
        const mfa_index row = rows[r].row;
        const mfa_row_end end =
            mfa_finish_row(p, mfa_to_natural(rows[r].most), mfa_row_sum(rows[r].sum), sink, value_factor);
        if (row < query_count) {
#pragma unroll
            for (int c = 0; c < VALUE_FRAGMENTS; ++c) {
                const int column = int(value_block) * MFA_DV + 8 * c + fragment_column;
                if (has_integer_values)
                    sums[r][c] = mfa_scale_columns(value_rows, column, sums[r][c]);
                mfa_write_pair(outs, row, column, sums[r][c] * end.factor);
            }
            if (has_logsumexp && value_block == 0 && fragment_column == 0)
                logsumexp[mfa_place(p.logsumexp, sequence.queries.batch, head, sequence.queries.row + row)] =
                    end.logsumexp;
        }
    }
}

/*
 * The forward pass for few queries, bound by reading keys and values: each is read once, straight into registers. A
 * threadgroup computes sums over one part of the keys for MFA_BQ = 8 rows, which are the queries of all heads that
 * share a key/value head: row r is head r % group of query r / group. Its simdgroups take tiles of keys in turn and add
 * up at the end; combine.metal adds the parts.
 *
 *   for each tile of keys of this simdgroup that some row sees:
 *     scores = transpose(keys . queries transposed)
 *     weights = exp(scores - running maximum), running sums
 *     sums = sums * correction + weights . values
 *
 * A lane reads MFA_VECTOR neighbours of a row where a fragment has two. So the columns of two fragments interleave:
 * fragment t of columns 16 c .. 16 c + 15 has the columns 16 c + 4 n + 2 t and the next, n = 0 .. 3. A sum over columns
 * does not mind, and columns of the output know their place.
 */
#include "mfa_integers.h"
#include "mfa_softmax.h"

enum {
    KEY_FRAGMENTS = MFA_BK / 8,
    CHUNK = 4 * MFA_VECTOR,
    CHUNK_FRAGMENTS = MFA_VECTOR / 2,
    DEPTH_CHUNKS = MFA_D / (4 * MFA_VECTOR),
    VALUE_CHUNKS = MFA_DV / (4 * MFA_VECTOR)
};

static_assert(MFA_BQ == 8, "one fragment of rows");
static_assert(MFA_D % CHUNK == 0 && MFA_DV % CHUNK == 0, "whole chunks");

/* Two queries, at fragment_column and the next, as a fragment of their transpose: queries have columns there. */
static inline vec<MFA_T, 2> read_transposed(const device MFA_T *first, const device MFA_T *second,
                                            mfa_index column_stride, int column, mfa_index head_dim) {
    const mfa_index place = column * column_stride;
    const bool inside = column < head_dim;
    return inside ? vec<MFA_T, 2>(first[place], second[place]) : vec<MFA_T, 2>(MFA_T(0));
}

/* What a lane reads of a key or value at once, where `exists`, else zeros. */
typedef vec<MFA_T, MFA_VECTOR> piece_t;

template <typename S>
static inline piece_t read_piece(mfa_rows<S> rows, mfa_found_row<S> row, int column, bool exists) {
    return exists ? piece_t(mfa_read_found<MFA_VECTOR>(rows, row, column)) : piece_t(MFA_T(0));
}

/* This lane's rows of a tile: every eighth from `key` on, as far as there are any. */
template <typename S> struct lane_rows {
    mfa_found_row<S> rows[KEY_FRAGMENTS];
};

template <typename S> static inline lane_rows<S> find_rows(mfa_rows<S> rows, mfa_index key, mfa_span keys) {
    lane_rows<S> found;
#pragma unroll
    for (int f = 0; f < KEY_FRAGMENTS; ++f)
        if (key + 8 * f >= keys.begin && key + 8 * f < keys.end)
            mfa_find_row(found.rows[f], rows, key + 8 * f);
    return found;
}

/* Adds products of some columns of keys, or of values in their place, and of queries. This lane has `column` and those
   behind it of every eighth key from `key` on. */
template <typename S>
static inline void add_products(mfa_rows<S> rows, lane_rows<S> found, mfa_index key, mfa_span keys, int column,
                                thread vec<MFA_T, 2> (&queries)[CHUNK_FRAGMENTS],
                                thread float2 (&scores)[KEY_FRAGMENTS]) {
#pragma unroll
    for (int f = 0; f < KEY_FRAGMENTS; ++f) {
        const mfa_index own_key = key + 8 * f;
        const piece_t piece = read_piece(rows, found.rows[f], column, own_key >= keys.begin && own_key < keys.end);
#pragma unroll
        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
            scores[f] =
                mfa_multiply_add<MFA_T, MFA_T>(vec<MFA_T, 2>(piece[2 * t], piece[2 * t + 1]), queries[t], scores[f]);
    }
}

/* sums += scale weights . values, of integers: columns one after the other, so that few have a sum of their own. This
   lane has `column` and those behind it of every eighth key from `key` on, in each of the chunks. */
static inline void add_integers(mfa_rows<MFA_V> rows, lane_rows<MFA_V> found, mfa_index key, mfa_span keys, int column,
                                float scale, thread float2 (&weights)[KEY_FRAGMENTS],
                                thread float2 (&sums)[VALUE_CHUNKS * CHUNK_FRAGMENTS]) {
#pragma unroll
    for (int c = 0; c < VALUE_CHUNKS; ++c) {
        float2 tile_sums[CHUNK_FRAGMENTS];
#pragma unroll
        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
            tile_sums[t] = float2(0);
#pragma unroll
        for (int f = 0; f < KEY_FRAGMENTS; ++f) {
            const mfa_index own_key = key + 8 * f;
            const piece_t piece =
                read_piece(rows, found.rows[f], column + CHUNK * c, own_key >= keys.begin && own_key < keys.end);
#pragma unroll
            for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
                tile_sums[t] =
                    mfa_add_weighted(weights[f], vec<MFA_T, 2>(piece[2 * t], piece[2 * t + 1]), tile_sums[t]);
        }
#pragma unroll
        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
            sums[c * CHUNK_FRAGMENTS + t] = fma(tile_sums[t], float2(scale), sums[c * CHUNK_FRAGMENTS + t]);
    }
}

[[kernel, max_total_threads_per_threadgroup(32 * MFA_SIMDGROUPS)]] void
attention_decode(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_FORWARD_ARGUMENTS, MFA_KEY_ARGUMENTS,
                 MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS, device float *partials [[buffer(MFA_BUFFER_PARTIALS)]],
                 uint threadgroup_number [[threadgroup_position_in_grid]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float all_max[MFA_SIMDGROUPS][MFA_BQ];
    threadgroup float all_sum[MFA_SIMDGROUPS][MFA_BQ];
    threadgroup float totals[MFA_BQ][MFA_DV];

    mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index split = number % p.splits;
    number /= p.splits;
    const mfa_index first_row = number % p.query_tiles * MFA_BQ;
    number /= p.query_tiles;
    const mfa_index value_block = number % p.value_blocks;
    number /= p.value_blocks;
    const mfa_index kv_head = number % p.kv_heads, batch = number / p.kv_heads, group = p.group;

    const mfa_sequence sequence = mfa_sequence_of(p, MFA_LISTS, batch);
    const mfa_extent extent = sequence.extent;
    const mfa_index row_count = extent.query_count * group, last_row = min(first_row + MFA_BQ, row_count) - 1;
    if (has_sequences && last_row < first_row)
        return;
    const int first_column = int(value_block) * MFA_DV;
    const mfa_biases biases = MFA_BIASES;
    const mfa_rows<MFA_K> key_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);
    const mfa_rows<MFA_V> value_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);

    /* This lane's row of scores; lanes beyond the last row repeat it, and write nothing. */
    const int fragment_row = mfa_fragment_row(lane), fragment_column = mfa_fragment_column(lane);
    const mfa_index row = min(first_row + fragment_row, last_row);
    const mfa_index head = kv_head * group + row % group, query_row = row / group;
    const mfa_scoring scoring = mfa_scaled(p, mfa_scoring_of(p, biases, sequence, head), MFA_QUERIES, batch, kv_head);
    mfa_mask_row mask_row;
    if (has_mask)
        mask_row = mfa_mask_row_of(p, biases, batch, head, query_row);

    /* Sequences have as many splits, each of them as long as its sequence needs. */
    mfa_index split_size = p.split_keys;
    if (has_sequences)
        split_size = max((extent.key_count + p.splits * MFA_BK - 1) / (p.splits * MFA_BK), mfa_index(1)) * MFA_BK;
    const mfa_span split_keys = mfa_span_of(split * split_size, (split + 1) * split_size);
    const mfa_span rows_here = mfa_span_of(first_row / group, last_row / group + 1);
    const mfa_span keys = mfa_span_cut(mfa_rule_keys_some_see(extent, rows_here), split_keys);

    /* Rows of several heads have blocks of their own each. */
    const mfa_blocks blocks = mfa_blocks_of(p, biases, batch, head);
    mfa_softmax_row state = mfa_softmax_row_of(
        query_row, mfa_span_cut(mfa_rule_keys_some_see(extent, mfa_span_of(query_row, query_row + 1)), split_keys));

    mfa_metal_query_terms rounded;
    if (has_integer_keys)
        rounded = mfa_query_terms_of(p, MFA_QUERIES, sequence, head, query_row);

    const mfa_index row_a = min(first_row + fragment_column, last_row), row_b = min(row_a + 1, last_row);
    const mfa_index head_a = kv_head * group + row_a % group, head_b = kv_head * group + row_b % group;
    const mfa_rows<MFA_T> queries_a = mfa_query_rows(p, MFA_QUERIES, sequence, head_a);
    const mfa_index head_dim = p.head_dim, query_stride = queries_a.column_stride;
    const device MFA_T *query_a = mfa_row_at(queries_a, row_a / group);
    const device MFA_T *query_b = mfa_row_at(mfa_query_rows(p, MFA_QUERIES, sequence, head_b), row_b / group);
    const device MFA_T *query_value_a = query_a, *query_value_b = query_b;
    if (has_query_value) {
        query_value_a = mfa_row_at(mfa_query_value_rows(p, MFA_QUERIES, sequence, head_a), row_a / group);
        query_value_b = mfa_row_at(mfa_query_value_rows(p, MFA_QUERIES, sequence, head_b), row_b / group);
    }
    /* Of a fragment's row of the transposed queries. */
    const int query_column = fragment_row / 2 * MFA_VECTOR + fragment_row % 2;
#if MFA_RESIDENT
    vec<MFA_T, 2> resident_query[DEPTH_CHUNKS][CHUNK_FRAGMENTS];
#pragma unroll
    for (int c = 0; c < DEPTH_CHUNKS; ++c)
#pragma unroll
        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
            resident_query[c][t] =
                read_transposed(query_a, query_b, query_stride, CHUNK * c + query_column + 2 * t, head_dim);
#endif

    float2 sums[VALUE_CHUNKS * CHUNK_FRAGMENTS];
#pragma unroll
    for (int n = 0; n < VALUE_CHUNKS * CHUNK_FRAGMENTS; ++n)
        sums[n] = float2(0);

    for (mfa_index first_key = (keys.begin / MFA_BK + simdgroup) * MFA_BK; first_key < keys.end;
         first_key += MFA_BK * MFA_SIMDGROUPS) {
        mfa_lane_pairs pairs;
        if (has_blocks) {
            pairs = mfa_lane_pairs_of<MFA_BK, false>(blocks, state.row, first_key, state.keys, fragment_column);
            if (!simd_any(pairs.visible != 0))
                continue;
        }
        float2 mask_bias[KEY_FRAGMENTS];
        if (has_mask && !simd_any(mfa_read_bias(mask_row, pairs, state, first_key, fragment_column, mask_bias)))
            continue;

        float2 scores[KEY_FRAGMENTS];
#pragma unroll
        for (int f = 0; f < KEY_FRAGMENTS; ++f)
            scores[f] = float2(0);
        const lane_rows<MFA_K> own_keys = find_rows(key_rows, first_key + fragment_row, keys);
        const lane_rows<MFA_V> own_values = find_rows(value_rows, first_key + fragment_row, keys);
#if MFA_RESIDENT
#pragma unroll
#endif
        for (int c = 0; c < DEPTH_CHUNKS; ++c) {
            vec<MFA_T, 2> columns[CHUNK_FRAGMENTS];
#pragma unroll
            for (int t = 0; t < CHUNK_FRAGMENTS; ++t) {
#if MFA_RESIDENT
                columns[t] = resident_query[c][t];
#else
                columns[t] =
                    read_transposed(query_a, query_b, query_stride, CHUNK * c + query_column + 2 * t, head_dim);
#endif
            }
            add_products(key_rows, own_keys, first_key + fragment_row, keys,
                         CHUNK * c + fragment_column / 2 * MFA_VECTOR, columns, scores);
        }
        for (int column = 0; has_query_value && column < value_rows.length; column += CHUNK) {
            vec<MFA_T, 2> columns[CHUNK_FRAGMENTS];
#pragma unroll
            for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
                columns[t] = read_transposed(query_value_a, query_value_b, p.query_value.column,
                                             column + query_column + 2 * t, p.value_dim);
            add_products(value_rows, own_values, first_key + fragment_row, keys,
                         column + fragment_column / 2 * MFA_VECTOR, columns, scores);
        }

#pragma unroll
        for (int f = 0; f < KEY_FRAGMENTS; ++f)
            scores[f] = mfa_transpose(scores[f], lane);
        if (has_integer_keys)
            mfa_scale_products(key_rows, rounded, state.keys, first_key, fragment_column, scores);
        mfa_score_row(scoring, pairs, state, false, first_key, fragment_column, mask_bias, scores);
        const uint hidden = mfa_hidden_keys(scores);
        const float correction = mfa_weigh_row(state, scores);
#pragma unroll
        for (int n = 0; n < VALUE_CHUNKS * CHUNK_FRAGMENTS; ++n)
            sums[n] *= correction;
        if (has_dropout)
            mfa_drop_row(mfa_dropout_of(p, batch, head), query_row, first_key, fragment_column, scores);

        const int value_column = first_column + fragment_column / 2 * MFA_VECTOR;
        if (has_integer_values) {
            const float scale = mfa_round_weights(value_rows, state.keys, first_key, fragment_column, scores);
            add_integers(value_rows, own_values, first_key + fragment_row, keys, value_column, scale, scores, sums);
            continue;
        }
        bool not_finite = false;
#pragma unroll
        for (int f = 0; f < KEY_FRAGMENTS; ++f) {
            const mfa_index own_key = first_key + 8 * f + fragment_row;
#pragma unroll
            for (int c = 0; c < VALUE_CHUNKS; ++c) {
                piece_t piece = read_piece(value_rows, own_values.rows[f], value_column + CHUNK * c,
                                           own_key >= keys.begin && own_key < keys.end);
                not_finite = not_finite || !mfa_is_finite<MFA_VECTOR, MFA_T>(piece);
                piece = mfa_only_finite<MFA_VECTOR, MFA_T>(piece);
#pragma unroll
                for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
                    sums[c * CHUNK_FRAGMENTS + t] = mfa_add_weighted(
                        scores[f], vec<MFA_T, 2>(piece[2 * t], piece[2 * t + 1]), sums[c * CHUNK_FRAGMENTS + t]);
            }
        }
        if (simd_any(not_finite))
            mfa_add_not_finite<CHUNK_FRAGMENTS>(value_rows, first_key, keys, first_column, lane, hidden, scores, sums);
    }

    /* Simdgroups add up in order. */
    const float row_max = state.most, row_sum = mfa_row_sum(state.sum);
    if (fragment_column == 0) {
        all_max[simdgroup][fragment_row] = row_max;
        all_sum[simdgroup][fragment_row] = row_sum;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float most = -INFINITY, total = 0;
    for (int s = 0; s < MFA_SIMDGROUPS; ++s)
        most = max(most, all_max[s][fragment_row]);
    const float reference = mfa_reference(most);
    for (int s = 0; s < MFA_SIMDGROUPS; ++s)
        total += all_sum[s][fragment_row] * mfa_weight(all_max[s][fragment_row], reference);
    const float correction = mfa_weight(row_max, reference);
    for (uint s = 0; s < MFA_SIMDGROUPS; ++s) {
        if (s == simdgroup)
#pragma unroll
            for (int c = 0; c < VALUE_CHUNKS; ++c)
#pragma unroll
                for (int t = 0; t < CHUNK_FRAGMENTS; ++t)
                    for (int i = 0; i < 2; ++i) {
                        const int column = CHUNK * c + fragment_column / 2 * MFA_VECTOR + 2 * t + i;
                        const float mine = sums[c * CHUNK_FRAGMENTS + t][i] * correction;
                        totals[fragment_row][column] = s == 0 ? mine : totals[fragment_row][column] + mine;
                    }
        threadgroup_barrier(mem_flags::mem_threadgroup);
    }

    const mfa_index width = p.value_dim + MFA_PARTIAL_EXTRA;
    const mfa_index columns = min(mfa_index(MFA_DV), p.value_dim - first_column);
    for (mfa_index r = simdgroup; first_row + r <= last_row; r += MFA_SIMDGROUPS) {
        const mfa_index to_head = kv_head * group + (first_row + r) % group, to_row = (first_row + r) / group;
        device float *part = partials + (mfa_stored_row(p, sequence, to_head, to_row) * p.splits + split) * width;
        for (mfa_index column = lane; column < columns; column += 32)
            part[first_column + column] =
                totals[r][column] *
                (has_integer_values ? mfa_column_scale(value_rows.coding, int(first_column + column)) : 1.0f);
    }
    if (simdgroup == 0 && value_block == 0 && fragment_column == 0 && first_row + fragment_row <= last_row) {
        device float *part = partials + (mfa_stored_row(p, sequence, head, query_row) * p.splits + split) * width;
        part[p.value_dim] = mfa_to_natural(most);
        part[p.value_dim + 1] = total;
    }
}

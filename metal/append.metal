/* Puts new rows of keys and values behind those that the cache has. A threadgroup takes some rows of one sequence, each
   simdgroup some heads of them. */
#include "mfa_rotary.h"

static inline mfa_tile tile_of(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index place) {
    if (has_new_starts)
        return mfa_packed_tile<MFA_APPEND_ROWS>(lists.new_starts, p.new_starts.column, p.batch, p.new_rows, place);
    mfa_tile tile;
    tile.sequence = batch;
    tile.first = place * MFA_APPEND_ROWS;
    return tile;
}

/* A row of keys, to be turned, or of values. */
struct new_row_t {
    mfa_rows<MFA_T> rows;
    mfa_index row, position;
    bool turns;
};

static inline new_row_t new_row_of(mfa_rows<MFA_T> rows, mfa_index row, mfa_index position, bool turns) {
    new_row_t added;
    added.rows = rows;
    added.row = row;
    added.position = position;
    added.turns = turns;
    return added;
}

/* What codes of the cache stand for, as far as it is there. */
struct cache_terms_t {
    device uchar *scales, *zero_points;
    const device float *mean;
};

/* ------------------------------------------------------------------ a cache of floats */

static inline void copy_row(mfa_rows<MFA_T> from, mfa_index row, mfa_result_rows<MFA_T> to, mfa_index to_row,
                            uint lane) {
    const device MFA_T *source = mfa_row_at(from, row);
    device MFA_T *target = mfa_row_at(to, to_row);
    for (mfa_index column = lane; column < from.length; column += 32)
        target[column * to.column_stride] = source[column * from.column_stride];
}

static inline void append_row(constant mfa_metal_params &p, mfa_rotary rotary, new_row_t added,
                              mfa_result_rows<MFA_T> to, mfa_index to_row, mfa_sequence, mfa_index,
                              constant mfa_metal_coding &, uint, cache_terms_t, uint lane) {
    if (added.turns)
        mfa_turn_row(p, rotary, added.position, added.rows, added.row, to, to_row, lane);
    else
        copy_row(added.rows, added.row, to, to_row, lane);
}

/* ------------------------------------------------------------------ a cache of codes */

/* From the least element to the most, 0 included, without those that are not finite. */
struct range_t {
    float least, most;
};

static inline range_t widened(range_t range, float x) {
    if (isfinite(x)) {
        range.least = min(range.least, x);
        range.most = max(range.most, x);
    }
    return range;
}

/* Of all lanes' elements. */
static inline range_t joined(range_t range) {
#pragma unroll
    for (ushort apart = 1; apart < 32; apart *= 2) {
        range.least = min(range.least, simd_shuffle_xor(range.least, apart));
        range.most = max(range.most, simd_shuffle_xor(range.most, apart));
    }
    return range;
}

/* Codes are x / scale, rounded, + zero_point, cut to least .. most. */
struct quantiser_t {
    float scale, zero_point, least, most;
};

template <typename S> static inline quantiser_t quantiser_of(uint kind) {
    quantiser_t quantiser;
    quantiser.zero_point = 0;
    quantiser.most = float(mfa_storage<S>::highest);
    quantiser.least = (kind & MFA_CODES_ZERO_POINTS) != 0 ? float(mfa_storage<S>::lowest) : -quantiser.most;
    return quantiser;
}

/* Its scale is a normal number of its precision, its zero point a code. */
static inline quantiser_t fitted(quantiser_t quantiser, uint kind, range_t range) {
    const bool has_zero_points = (kind & MFA_CODES_ZERO_POINTS) != 0, is_half = (kind & MFA_CODES_HALF_SCALES) != 0;
    float scale = has_zero_points ? (range.most - range.least) / (quantiser.most - quantiser.least)
                                  : max(range.most, -range.least) / quantiser.most;
    scale = max(min(scale, is_half ? 65504.0f : 3.40282347e38f), is_half ? 6.103515625e-5f : 1.17549435e-38f);
    if (is_half)
        scale = float(half(scale));
    quantiser.scale = range.most == range.least ? 1.0f : scale;
    if (has_zero_points)
        quantiser.zero_point =
            max(quantiser.least, min(quantiser.most, rint(quantiser.least - range.least / quantiser.scale)));
    return quantiser;
}

static inline float code_of(quantiser_t quantiser, float x) {
    const float code = rint((isnan(x) ? 0.0f : x) / quantiser.scale) + quantiser.zero_point;
    return max(quantiser.least, min(quantiser.most, code));
}

static inline void write_terms(cache_terms_t terms, uint kind, mfa_code_place place, quantiser_t quantiser) {
    if ((kind & MFA_CODES_HALF_SCALES) != 0)
        ((device half *)terms.scales)[place.scale] = half(quantiser.scale);
    else
        ((device float *)terms.scales)[place.scale] = quantiser.scale;
    if ((kind & MFA_CODES_ZERO_POINTS) == 0)
        return;
    if ((kind & MFA_CODES_SIGNED_BYTES) != 0)
        ((device char *)terms.zero_points)[place.zero_point] = char(quantiser.zero_point);
    else if ((kind & MFA_CODES_UNSIGNED_BYTES) != 0)
        terms.zero_points[place.zero_point] = uchar(quantiser.zero_point);
    else
        ((device int *)terms.zero_points)[place.zero_point] = int(quantiser.zero_point);
}

/* What a byte holds: one code, or two. */
static inline void write_codes(device char *to, mfa_index place, float2 codes) { to[place] = char(codes[0]); }
static inline void write_codes(device uchar *to, mfa_index place, float2 codes) { to[place] = uchar(codes[0]); }
static inline uchar pair_of(float2 codes) { return uchar((int(codes[0]) & 15) | (int(codes[1]) & 15) << 4); }
static inline void write_codes(device mfa_int4 *to, mfa_index place, float2 codes) {
    to[place / 2].pair = pair_of(codes);
}
static inline void write_codes(device mfa_uint4 *to, mfa_index place, float2 codes) {
    to[place / 2].pair = pair_of(codes);
}

/* What a column's code is to stand for. */
static inline float new_element(constant mfa_metal_params &p, mfa_rotary rotary, new_row_t added,
                                mfa_coding<true> coding, int column) {
    const device MFA_T *source = mfa_row_at(added.rows, added.row);
    const mfa_index stride = added.rows.column_stride;
    float x = added.turns ? mfa_turned_column(p, rotary, added.position, source, stride, column)
                          : float(source[column * stride]);
    if ((coding.kind & MFA_CODES_MEAN) != 0)
        x -= coding.terms.mean[column * coding.strides->mean.column];
    return x;
}

/* Rows that have scales of their own get new ones, others are cut to what theirs can say. */
template <typename S>
static inline void append_row(constant mfa_metal_params &p, mfa_rotary rotary, new_row_t added, mfa_result_rows<S> to,
                              mfa_index to_row, mfa_sequence sequence, mfa_index head,
                              constant mfa_metal_coding &strides, uint kind, cache_terms_t terms, uint lane) {
    mfa_code_terms there;
    there.scales = terms.scales;
    there.zero_points = terms.zero_points;
    there.mean = terms.mean;
    mfa_coding<true> coding;
    mfa_find_coding(coding, strides, kind, there, sequence, mfa_key_origin(sequence), head);
    const mfa_code_place place = mfa_code_row(coding, mfa_row_origin(to.paging, to_row));
    device S *target = mfa_row_at(to, to_row);
    const bool by_column = (kind & MFA_CODES_COLUMNS) != 0, measures = strides.rows == 1;
    const int width = (kind & MFA_CODES_GROUPS) != 0 ? int(strides.columns) : to.length;
    const int count = mfa_storage<S>::count;
    range_t nothing;
    nothing.least = nothing.most = 0;
    quantiser_t quantiser = quantiser_of<S>(kind);
    for (int begin = 0; begin < to.length; begin += width) {
        const int end = min(begin + width, to.length);
        range_t range = nothing;
        for (int column = begin + int(lane); column < end && measures && !by_column; column += 32)
            range = widened(range, new_element(p, rotary, added, coding, column));
        range = joined(range);
        for (int first = begin + int(lane) * count; first < end; first += 32 * count) {
            float2 codes = float2(0);
            for (int i = 0; i < count && first + i < end; ++i) {
                const float x = new_element(p, rotary, added, coding, first + i);
                const mfa_code_place own = mfa_code_column(coding, place, first + i);
                if (measures && by_column)
                    range = widened(nothing, x);
                if (measures) {
                    quantiser = fitted(quantiser, kind, range);
                    if (by_column || first + i == begin)
                        write_terms(terms, kind, own, quantiser);
                } else {
                    quantiser.scale = mfa_scale_at(coding, own);
                    quantiser.zero_point = mfa_zero_point_at(coding, own);
                }
                codes[i] = code_of(quantiser, x);
            }
            write_codes(target, first * to.column_stride, codes);
        }
    }
}

/* ------------------------------------------------------------------ both */

#define CACHE_ARGUMENTS                                                                                               \
    device MFA_K *key [[buffer(MFA_BUFFER_KEY)]], device MFA_V *value [[buffer(MFA_BUFFER_VALUE)]],                   \
        device uchar *key_scales [[buffer(MFA_BUFFER_KEY_SCALES), function_constant(has_key_codes)]],                 \
        device uchar *key_zero_points [[buffer(MFA_BUFFER_KEY_ZERO_POINTS), function_constant(has_key_zero_points)]], \
        const device float *key_mean [[buffer(MFA_BUFFER_KEY_MEAN), function_constant(has_key_mean)]],                \
        device uchar *value_scales [[buffer(MFA_BUFFER_VALUE_SCALES), function_constant(has_value_codes)]],           \
        device uchar *value_zero_points                                                                               \
        [[buffer(MFA_BUFFER_VALUE_ZERO_POINTS), function_constant(has_value_zero_points)]]

[[kernel, max_total_threads_per_threadgroup(32 * MFA_APPEND_SIMDGROUPS)]] void
attention_append(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],
                 const device MFA_T *new_key [[buffer(MFA_BUFFER_NEW_KEY)]],
                 const device MFA_T *new_value [[buffer(MFA_BUFFER_NEW_VALUE)]], CACHE_ARGUMENTS, MFA_ROTARY_ARGUMENTS,
                 MFA_SEQUENCE_ARGUMENTS, uint threadgroup_number [[threadgroup_position_in_grid]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_lists lists = MFA_LISTS;
    const mfa_rotary rotary = MFA_ROTARY;
    const mfa_tile tile = tile_of(p, lists, number / p.key_tiles, number % p.key_tiles);
    const mfa_sequence sequence = mfa_sequence_of(p, lists, tile.sequence);
    const mfa_index count = sequence.extent.key_count - sequence.first_new;
    if (!mfa_tile_exists(tile, count))
        return;
    cache_terms_t key_terms, value_terms;
    if (has_key_codes)
        key_terms.scales = key_scales;
    if (has_key_zero_points)
        key_terms.zero_points = key_zero_points;
    if (has_key_mean)
        key_terms.mean = key_mean;
    if (has_value_codes)
        value_terms.scales = value_scales;
    if (has_value_zero_points)
        value_terms.zero_points = value_zero_points;
    const mfa_index position = mfa_rotary_position(p, rotary, sequence);
    const mfa_index rows = min(mfa_index(MFA_APPEND_ROWS), count - tile.first);
    for (mfa_index i = simdgroup; i < rows * p.kv_heads; i += MFA_APPEND_SIMDGROUPS) {
        const mfa_index head = i % p.kv_heads, row = tile.first + i / p.kv_heads, to_row = sequence.first_new + row;
        append_row(
            p, rotary,
            new_row_of(mfa_rows_of(new_key, p.new_key, sequence.added, head, p.head_dim), row, position + row, true),
            mfa_cache_result_rows_of(key, p, p.key, sequence, head, p.head_dim), to_row, sequence, head, p.key_coding,
            key_codes, key_terms, lane);
        append_row(p, rotary,
                   new_row_of(mfa_rows_of(new_value, p.new_value, sequence.added, head, p.value_dim), row, 0, false),
                   mfa_cache_result_rows_of(value, p, p.value, sequence, head, p.value_dim), to_row, sequence, head,
                   p.value_coding, value_codes, value_terms, lane);
    }
}

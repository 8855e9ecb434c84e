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

/* Without a position to turn them by. */
static inline void copy_row(mfa_rows<MFA_KV> from, mfa_index row, mfa_result_rows<MFA_KV> to, mfa_index to_row,
                            uint lane) {
    const device MFA_KV *source = mfa_row_at(from, row);
    device MFA_KV *target = mfa_row_at(to, to_row);
    for (mfa_index column = lane; column < from.length; column += 32)
        target[column * to.column_stride] = source[column * from.column_stride];
}

[[kernel, max_total_threads_per_threadgroup(32 * MFA_APPEND_SIMDGROUPS)]] void
attention_append(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],
                 const device MFA_KV *new_key [[buffer(MFA_BUFFER_NEW_KEY)]],
                 const device MFA_KV *new_value [[buffer(MFA_BUFFER_NEW_VALUE)]],
                 device MFA_KV *key [[buffer(MFA_BUFFER_KEY)]], device MFA_KV *value [[buffer(MFA_BUFFER_VALUE)]],
                 MFA_ROTARY_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS, uint threadgroup_number [[threadgroup_position_in_grid]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_lists lists = MFA_LISTS;
    const mfa_rotary rotary = MFA_ROTARY;
    const mfa_tile tile = tile_of(p, lists, number / p.key_tiles, number % p.key_tiles);
    const mfa_sequence sequence = mfa_sequence_of(p, lists, tile.sequence);
    const mfa_index count = sequence.extent.key_count - sequence.first_new;
    if (!mfa_tile_exists(tile, count))
        return;
    const mfa_index position = mfa_rotary_position(p, rotary, sequence);
    const mfa_index rows = min(mfa_index(MFA_APPEND_ROWS), count - tile.first);
    for (mfa_index i = simdgroup; i < rows * p.kv_heads; i += MFA_APPEND_SIMDGROUPS) {
        const mfa_index head = i % p.kv_heads, row = tile.first + i / p.kv_heads, to_row = sequence.first_new + row;
        mfa_turn_row(p, rotary, position + row, mfa_rows_of(new_key, p.new_key, sequence.added, head, p.head_dim), row,
                     mfa_cache_result_rows_of(key, p, p.key, sequence, head, p.head_dim), to_row, lane);
        copy_row(mfa_rows_of(new_value, p.new_value, sequence.added, head, p.value_dim), row,
                 mfa_cache_result_rows_of(value, p, p.value, sequence, head, p.value_dim), to_row, lane);
    }
}

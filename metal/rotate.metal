/* Copies queries, turned by their positions. A threadgroup takes some rows of one sequence, each simdgroup some heads of
   them. */
#include "mfa_rotary.h"

[[kernel, max_total_threads_per_threadgroup(32 * MFA_APPEND_SIMDGROUPS)]] void
attention_rotate(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],
                 const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],
                 device MFA_T *turned [[buffer(MFA_BUFFER_TURNED)]], MFA_ROTARY_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,
                 uint threadgroup_number [[threadgroup_position_in_grid]],
                 uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_lists lists = MFA_LISTS;
    const mfa_rotary rotary = MFA_ROTARY;
    const mfa_tile tile = mfa_query_tile<MFA_APPEND_ROWS>(p, lists, number / p.query_tiles, number % p.query_tiles);
    const mfa_sequence sequence = mfa_sequence_of(p, lists, tile.sequence);
    if (!mfa_tile_exists(tile, sequence.extent.query_count))
        return;
    const mfa_index position = mfa_rotary_position(p, rotary, sequence);
    const mfa_index rows = min(mfa_index(MFA_APPEND_ROWS), sequence.extent.query_count - tile.first);
    for (mfa_index i = simdgroup; i < rows * p.heads; i += MFA_APPEND_SIMDGROUPS) {
        const mfa_index head = i % p.heads, row = tile.first + i / p.heads;
        mfa_turn_row(p, rotary, position + (p.queries_step != 0 ? row : 0),
                     mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim), row,
                     mfa_result_rows_of(turned, p.turned, sequence.queries, head, p.head_dim), row, lane);
    }
}

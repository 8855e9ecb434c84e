/* Rounds queries to integers, each row with a scale of its own, for products with codes of keys. A threadgroup takes some
   rows of one sequence, each simdgroup some heads of them. */
#include "mfa_integers.h"

[[kernel, max_total_threads_per_threadgroup(32 * MFA_APPEND_SIMDGROUPS)]] void
attention_quantise(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],
                   const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],
                   device MFA_T *turned [[buffer(MFA_BUFFER_TURNED)]],
                   device mfa_metal_query_terms *terms [[buffer(MFA_BUFFER_QUERY_TERMS)]], MFA_KEY_ARGUMENTS,
                   MFA_SEQUENCE_ARGUMENTS, uint threadgroup_number [[threadgroup_position_in_grid]],
                   uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_lists lists = MFA_LISTS;
    const mfa_tile tile = mfa_query_tile<MFA_APPEND_ROWS>(p, lists, number / p.query_tiles, number % p.query_tiles);
    const mfa_sequence sequence = mfa_sequence_of(p, lists, tile.sequence);
    if (!mfa_tile_exists(tile, sequence.extent.query_count))
        return;
    const mfa_index rows = min(mfa_index(MFA_APPEND_ROWS), sequence.extent.query_count - tile.first);
    for (mfa_index i = simdgroup; i < rows * p.heads; i += MFA_APPEND_SIMDGROUPS) {
        const mfa_index head = i % p.heads, row = tile.first + i / p.heads;
        const mfa_result_rows<MFA_T> to = mfa_result_rows_of(turned, p.turned, sequence.queries, head, p.head_dim);
        mfa_rows<MFA_T> from = mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim);
        if (has_rotary)
            from = mfa_rows_of((const device MFA_T *)turned, p.turned, sequence.queries, head, p.head_dim);
        const mfa_metal_query_terms found =
            mfa_round_query(from, mfa_key_rows(p, MFA_KEYS, sequence, head / p.group), to, row, lane);
        if (lane == 0)
            terms[mfa_stored_row(p, sequence, head, row)] = found;
    }
}

/* Gives each element of a result the value of a row that no sequence has: 0, or -inf in logsumexp. */
#include "mfa_kernel.h"

#define THREADS (32 * MFA_FILL_SIMDGROUPS)

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void attention_fill(
    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], device MFA_G *result [[buffer(MFA_BUFFER_FILLED)]],
    uint threadgroup_number [[threadgroup_position_in_grid]], uint thread_number [[thread_index_in_threadgroup]]) {
    const mfa_index heads = p.filled_size.head, rows = p.filled_size.row;
    const mfa_index first_row = (p.first_threadgroup + threadgroup_number) * MFA_FILL_ROWS;
    const mfa_index end = min(first_row + MFA_FILL_ROWS, p.filled_size.batch * heads * rows);
    const uint columns = uint(p.filled_size.column), count = uint(end - first_row) * columns;
    for (uint i = thread_number; i < count; i += THREADS) {
        const mfa_index row = first_row + i / columns, column = i % columns;
        result[mfa_place(p.filled, row / rows / heads, row / rows % heads, row % rows) + column * p.filled.column] =
            has_logsumexp ? MFA_G(-INFINITY) : MFA_G(0);
    }
}

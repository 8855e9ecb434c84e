/* Adds what decode found out about parts of the keys, in order: a simdgroup for each row. */
#include "mfa_score.h"

/* Weight of one part, whose largest score is natural. */
static inline float part_weight(const device float *part, mfa_index value_dim, float reference) {
    return fast::exp2((part[value_dim] - reference) * MFA_LOG2_E);
}

[[kernel, max_total_threads_per_threadgroup(32 * MFA_SIMDGROUPS)]] void
attention_combine(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],
                  device MFA_O *out [[buffer(MFA_BUFFER_OUT)]],
                  device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP), function_constant(has_logsumexp)]],
                  const device float *sinks [[buffer(MFA_BUFFER_SINKS), function_constant(has_sinks)]],
                  const device float *partials [[buffer(MFA_BUFFER_PARTIALS)]],
                  uint threadgroup_number [[threadgroup_position_in_grid]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index number = (p.first_threadgroup + threadgroup_number) * MFA_SIMDGROUPS + simdgroup;
    if (number >= p.batch * p.heads * p.query_count)
        return;
    const mfa_index row = number % p.query_count, head = number / p.query_count % p.heads;
    const mfa_index batch = number / p.query_count / p.heads;
    const mfa_index value_dim = p.value_dim, splits = p.splits, width = value_dim + MFA_PARTIAL_EXTRA;
    const device float *parts = partials + number * splits * width;

    float most = -INFINITY, sum = 0;
    for (mfa_index s = 0; s < splits; ++s)
        most = max(most, parts[s * width + value_dim]);
    const float reference = mfa_reference(most);
    for (mfa_index s = 0; s < splits; ++s)
        sum += parts[s * width + value_dim + 1] * part_weight(parts + s * width, value_dim, reference);

    const mfa_row_end end = mfa_finish_row(p, most, sum, has_sinks ? sinks[head * p.sinks.head] : -INFINITY);
    device MFA_O *to = mfa_row_at(mfa_result_rows_of(out, p.out, batch, head, value_dim), row);
    for (mfa_index column = lane; column < value_dim; column += 32) {
        float total = 0;
        for (mfa_index s = 0; s < splits; ++s)
            total += part_weight(parts + s * width, value_dim, reference) * parts[s * width + column];
        to[column * p.out.column] = MFA_O(total * end.factor);
    }
    if (has_logsumexp && lane == 0)
        logsumexp[mfa_place(p.logsumexp, batch, head, row)] = end.logsumexp;
}

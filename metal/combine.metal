/* Adds what decode found out about parts of the keys, in order: a simdgroup for each row. */
#include "mfa_score.h"

/* Weight of one part, whose largest score is natural. */
static inline float part_weight(const device float *part, mfa_index value_dim, float reference) {
    return fast::exp2((part[value_dim] - reference) * MFA_LOG2_E);
}

[[kernel, max_total_threads_per_threadgroup(32 * MFA_SIMDGROUPS)]] void
attention_combine(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_SEQUENCE_ARGUMENTS,
                  device MFA_O *out [[buffer(MFA_BUFFER_OUT)]],
                  device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP), function_constant(has_logsumexp)]],
                  const device float *sinks [[buffer(MFA_BUFFER_SINKS), function_constant(has_sinks)]],
                  const device float *value_scale
                  [[buffer(MFA_BUFFER_VALUE_SCALE), function_constant(has_value_scale)]],
                  const device float *partials [[buffer(MFA_BUFFER_PARTIALS)]],
                  uint threadgroup_number [[threadgroup_position_in_grid]],
                  uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index number = (p.first_threadgroup + threadgroup_number) * MFA_SIMDGROUPS + simdgroup;
    if (number >= p.stored_batches * p.heads * p.stored_rows)
        return;
    const mfa_index row = number % p.stored_rows, head = number / p.stored_rows % p.heads;
    mfa_origin origin;
    origin.batch = number / p.stored_rows / p.heads;
    origin.row = 0;
    const mfa_index value_dim = p.value_dim, splits = p.splits, width = value_dim + MFA_PARTIAL_EXTRA;
    const device float *parts = partials + number * splits * width;

    device MFA_O *to = mfa_row_at(mfa_result_rows_of(out, p.out, origin, head, value_dim), row);
    const mfa_lists lists = MFA_LISTS;
    const mfa_index sequence = mfa_sequence_at(p, lists, origin.batch, row);
    if (has_sequences && !mfa_has_row(mfa_sequence_of(p, lists, sequence), row)) {
        for (mfa_index column = lane; column < value_dim; column += 32)
            to[column * p.out.column] = MFA_O(0);
        if (has_logsumexp && lane == 0)
            logsumexp[mfa_place(p.logsumexp, origin.batch, head, row)] = -INFINITY;
        return;
    }

    float most = -INFINITY, sum = 0;
    for (mfa_index s = 0; s < splits; ++s)
        most = max(most, parts[s * width + value_dim]);
    const float reference = mfa_reference(most);
    for (mfa_index s = 0; s < splits; ++s)
        sum += parts[s * width + value_dim + 1] * part_weight(parts + s * width, value_dim, reference);

    const float value_factor =
        has_value_scale ? mfa_factor(value_scale, p.value_scale, sequence, head / p.group) : 1.0f;
    const mfa_row_end end =
        mfa_finish_row(p, most, sum, has_sinks ? sinks[head * p.sinks.head] : -INFINITY, value_factor);
    for (mfa_index column = lane; column < value_dim; column += 32) {
        float total = 0;
        for (mfa_index s = 0; s < splits; ++s)
            total += part_weight(parts + s * width, value_dim, reference) * parts[s * width + column];
        to[column * p.out.column] = MFA_O(total * end.factor);
    }
    if (has_logsumexp && lane == 0)
        logsumexp[mfa_place(p.logsumexp, origin.batch, head, row)] = end.logsumexp;
}

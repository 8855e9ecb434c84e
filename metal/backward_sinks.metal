/* The gradient of sinks. A threadgroup owns a head and adds up its rows in a fixed order. */
#include "mfa_sequences.h"

#define THREADS (32 * MFA_SINKS_SIMDGROUPS)

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void
attention_backward_sinks(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_SEQUENCE_ARGUMENTS,
                         const device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP)]],
                         const device float *sinks [[buffer(MFA_BUFFER_SINKS)]],
                         const device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]],
                         device float *dsinks [[buffer(MFA_BUFFER_DSINKS)]],
                         uint threadgroup_number [[threadgroup_position_in_grid]],
                         uint thread_number [[thread_index_in_threadgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    threadgroup float partial[MFA_SINKS_SIMDGROUPS];
    const mfa_index head = p.first_threadgroup + threadgroup_number;
    const float sink = sinks[head * p.sinks.head];
    float sum = 0;
    if (sink != -INFINITY)
        for (mfa_index batch = 0; batch < p.batch; ++batch) {
            const mfa_sequence sequence = mfa_sequence_of(p, MFA_LISTS, batch);
            const mfa_origin origin = sequence.queries;
            for (mfa_index row = thread_number; row < sequence.extent.query_count; row += THREADS) {
                const float share =
                    precise::exp(sink - logsumexp[mfa_place(p.logsumexp, origin.batch, head, origin.row + row)]);
                sum -= share * deltas[mfa_stored_row(p, sequence, head, row)].delta;
            }
        }
    sum = simd_sum(sum);
    if (lane == 0)
        partial[simdgroup] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (thread_number == 0) {
        float total = 0;
        for (int i = 0; i < MFA_SINKS_SIMDGROUPS; ++i)
            total += partial[i];
        dsinks[head * p.dsinks.head] = total;
    }
}

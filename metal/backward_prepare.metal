/*
 * What the other kernels of the backward pass read of rows: delta = rowsum(dout * out) - dlogsumexp, and whether dout is
 * finite. A simdgroup takes some rows as they lie, of whatever sequence, one after the other. Without out, the sum is the
 * caller's.
 */
#include "mfa_rows.h"

#define THREADS (32 * MFA_PREPARE_SIMDGROUPS)

constant bool has_out [[function_constant(MFA_CONSTANT_OUT)]];
constant bool has_own_delta [[function_constant(MFA_CONSTANT_OWN_DELTA)]];
constant bool has_dlogsumexp [[function_constant(MFA_CONSTANT_DLOGSUMEXP)]];

static inline bool is_of_sequence(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index row) {
    return !has_sequences || mfa_has_row(mfa_sequence_of(p, lists, mfa_sequence_at(p, lists, batch, row)), row);
}

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void attention_backward_prepare(
    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],
    const device MFA_O *out [[buffer(MFA_BUFFER_OUT), function_constant(has_out)]],
    const device MFA_DO *dout [[buffer(MFA_BUFFER_DOUT)]], device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]],
    device float *own_delta [[buffer(MFA_BUFFER_OWN_DELTA), function_constant(has_own_delta)]],
    const device float *dlogsumexp [[buffer(MFA_BUFFER_DLOGSUMEXP), function_constant(has_dlogsumexp)]],
    MFA_SEQUENCE_ARGUMENTS, uint threadgroup_number [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index tiles = (p.stored_rows + MFA_PREPARE_ROWS - 1) / MFA_PREPARE_ROWS;
    const mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index first_row = number % tiles * MFA_PREPARE_ROWS,
                    end = min(first_row + MFA_PREPARE_ROWS, p.stored_rows);
    const mfa_index head = number / tiles % p.heads;
    mfa_origin origin;
    origin.batch = number / tiles / p.heads;
    origin.row = 0;
    mfa_rows<MFA_O> outs;
    if (has_out)
        outs = mfa_rows_of(out, p.out, origin, head, p.value_dim);
    const mfa_rows<MFA_DO> douts = mfa_rows_of(dout, p.dout, origin, head, p.value_dim);
    for (mfa_index row = first_row + simdgroup; row < end; row += MFA_PREPARE_SIMDGROUPS) {
        const mfa_index own_place = has_own_delta ? mfa_place(p.delta, origin.batch, head, row) : mfa_index(0);
        float sum = 0, taint = 0;
        bool zeros = true; /* as where a row sees no key: dout takes no part in it then, whatever it holds */
        for (int column = int(lane) * MFA_VECTOR; column < douts.length; column += 32 * MFA_VECTOR) {
            vec<MFA_O, MFA_VECTOR> left = vec<MFA_O, MFA_VECTOR>(MFA_O(0));
            if (has_out)
                left = mfa_read<MFA_VECTOR>(outs, row, column);
            const vec<MFA_DO, MFA_VECTOR> right = mfa_read<MFA_VECTOR>(douts, row, column);
            for (int i = 0; i < MFA_VECTOR; ++i) {
                sum = fma(float(left[i]), float(right[i]), sum);
                taint += float(right[i]) * 0.0f;
                zeros = zeros && left[i] == MFA_O(0);
            }
        }
        sum = simd_all(zeros) ? 0.0f : simd_sum(sum);
        taint = simd_sum(taint);
        if (lane == 0) {
            if (!has_out)
                sum = own_delta[own_place];
            else if (has_own_delta)
                own_delta[own_place] = is_of_sequence(p, MFA_LISTS, origin.batch, row) ? sum : 0.0f;
            if (has_dlogsumexp)
                sum -= dlogsumexp[mfa_place(p.dlogsumexp, origin.batch, head, row)];
            deltas[(origin.batch * p.heads + head) * p.stored_rows + row].delta = sum;
            deltas[(origin.batch * p.heads + head) * p.stored_rows + row].taint = taint;
        }
    }
}

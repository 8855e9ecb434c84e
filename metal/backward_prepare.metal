/*
 * What the other kernels of the backward pass read of rows: delta = rowsum(dout * out), and whether dout is finite. A
 * simdgroup takes some rows as they lie, of whatever sequence, one after the other.
 */
#include "mfa_rows.h"

#define THREADS (32 * MFA_PREPARE_SIMDGROUPS)

[[kernel, max_total_threads_per_threadgroup(THREADS)]] void attention_backward_prepare(
    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], const device MFA_O *out [[buffer(MFA_BUFFER_OUT)]],
    const device MFA_DO *dout [[buffer(MFA_BUFFER_DOUT)]], device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]],
    uint threadgroup_number [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
    const mfa_index tiles = (p.stored_rows + MFA_PREPARE_ROWS - 1) / MFA_PREPARE_ROWS;
    const mfa_index number = p.first_threadgroup + threadgroup_number;
    const mfa_index first_row = number % tiles * MFA_PREPARE_ROWS,
                    end = min(first_row + MFA_PREPARE_ROWS, p.stored_rows);
    const mfa_index head = number / tiles % p.heads;
    mfa_origin origin;
    origin.batch = number / tiles / p.heads;
    origin.row = 0;
    const mfa_rows<MFA_O> outs = mfa_rows_of(out, p.out, origin, head, p.value_dim);
    const mfa_rows<MFA_DO> douts = mfa_rows_of(dout, p.dout, origin, head, p.value_dim);
    for (mfa_index row = first_row + simdgroup; row < end; row += MFA_PREPARE_SIMDGROUPS) {
        float sum = 0, taint = 0;
        bool zeros = true; /* as where a row sees no key: dout takes no part in it then, whatever it holds */
        for (int column = int(lane) * MFA_VECTOR; column < outs.length; column += 32 * MFA_VECTOR) {
            const vec<MFA_O, MFA_VECTOR> left = mfa_read<MFA_VECTOR>(outs, row, column);
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
            deltas[(origin.batch * p.heads + head) * p.stored_rows + row].delta = sum;
            deltas[(origin.batch * p.heads + head) * p.stored_rows + row].taint = taint;
        }
    }
}

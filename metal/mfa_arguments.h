/*
 * Kernel arguments that belong together: MFA_..._ARGUMENTS declares them, and the macro behind it makes one value of
 * what a kernel was given. A new operand is a line here and in that value, not in each kernel.
 */
#ifndef MFA_ARGUMENTS_H
#define MFA_ARGUMENTS_H

#include "mfa_rows.h"

/* ------------------------------------------------------------------ keys and values */

#define MFA_KEY_ARGUMENTS \
    const device MFA_KV *key [[buffer(MFA_BUFFER_KEY)]], const device MFA_KV *value [[buffer(MFA_BUFFER_VALUE)]]
#define MFA_KEYS mfa_keys_of(key, value)

struct mfa_keys {
    const device MFA_KV *key, *value;
};

inline mfa_keys mfa_keys_of(const device MFA_KV *key, const device MFA_KV *value) {
    mfa_keys keys;
    keys.key = key;
    keys.value = value;
    return keys;
}

inline mfa_rows<MFA_KV> mfa_key_rows(constant mfa_metal_params &p, mfa_keys keys, mfa_sequence sequence,
                                     mfa_index kv_head) {
    return mfa_cache_rows_of(keys.key, p, p.key, sequence, kv_head, p.head_dim);
}

inline mfa_rows<MFA_KV> mfa_value_rows(constant mfa_metal_params &p, mfa_keys keys, mfa_sequence sequence,
                                       mfa_index kv_head) {
    return mfa_cache_rows_of(keys.value, p, p.value, sequence, kv_head, p.value_dim);
}

/* ------------------------------------------------------------------ what is added to scores, or hides them */

#define MFA_BIAS_ARGUMENTS                                                                                            \
    const device uchar *bool_mask [[buffer(MFA_BUFFER_BOOL_MASK), function_constant(has_bool_mask)]],                 \
        const device uchar *additive_mask [[buffer(MFA_BUFFER_ADDITIVE_MASK), function_constant(has_additive_mask)]], \
        const device float *alibi_slopes [[buffer(MFA_BUFFER_ALIBI_SLOPES), function_constant(has_alibi)]],           \
        const device mfa_u32 *block_words [[buffer(MFA_BUFFER_BLOCKS), function_constant(has_blocks)]]
#define MFA_BIASES mfa_biases_of(bool_mask, additive_mask, alibi_slopes, block_words)

/* Those that are there. */
struct mfa_biases {
    const device uchar *bool_mask, *additive_mask;
    const device float *alibi_slopes;
    const device mfa_u32 *block_words;
};

inline mfa_biases mfa_biases_of(const device uchar *bool_mask, const device uchar *additive_mask,
                                const device float *alibi_slopes, const device mfa_u32 *block_words) {
    mfa_biases biases;
    if (has_bool_mask)
        biases.bool_mask = bool_mask;
    if (has_additive_mask)
        biases.additive_mask = additive_mask;
    if (has_alibi)
        biases.alibi_slopes = alibi_slopes;
    if (has_blocks)
        biases.block_words = block_words;
    return biases;
}

/* ------------------------------------------------------------------ what the backward pass reads of rows */

#define MFA_QUERY_ARGUMENTS                                                                                        \
    const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]], const device MFA_DO *dout [[buffer(MFA_BUFFER_DOUT)]], \
        const device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP)]],                                            \
        const device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]]

/* ------------------------------------------------------------------ where a thread is */

#define MFA_THREAD_ARGUMENTS                                                                                      \
    uint threadgroup_number [[threadgroup_position_in_grid]], uint thread_number [[thread_index_in_threadgroup]], \
        uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]

#endif

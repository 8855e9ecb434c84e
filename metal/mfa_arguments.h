/*
 * Kernel arguments that belong together: MFA_..._ARGUMENTS declares them, and the macro behind it makes one value of
 * what a kernel was given. A new operand is a line here and in that value, not in each kernel.
 */
#ifndef MFA_ARGUMENTS_H
#define MFA_ARGUMENTS_H

#include "mfa_rows.h"

/* ------------------------------------------------------------------ keys and values */

#define MFA_KEY_ARGUMENTS                                                                                         \
    const device MFA_K *key [[buffer(MFA_BUFFER_KEY)]], const device MFA_V *value [[buffer(MFA_BUFFER_VALUE)]],   \
        const device uchar *key_scales [[buffer(MFA_BUFFER_KEY_SCALES), function_constant(has_key_codes)]],       \
        const device uchar *key_zero_points                                                                       \
        [[buffer(MFA_BUFFER_KEY_ZERO_POINTS), function_constant(has_key_zero_points)]],                           \
        const device float *key_mean [[buffer(MFA_BUFFER_KEY_MEAN), function_constant(has_key_mean)]],            \
        const device uchar *value_scales [[buffer(MFA_BUFFER_VALUE_SCALES), function_constant(has_value_codes)]], \
        const device uchar *value_zero_points                                                                     \
        [[buffer(MFA_BUFFER_VALUE_ZERO_POINTS), function_constant(has_value_zero_points)]]
#define MFA_KEYS mfa_keys_of(key, value, key_scales, key_zero_points, key_mean, value_scales, value_zero_points)

/* Those that are there. */
struct mfa_keys {
    const device MFA_K *key;
    const device MFA_V *value;
    mfa_code_terms key_terms, value_terms;
};

inline mfa_keys mfa_keys_of(const device MFA_K *key, const device MFA_V *value, const device uchar *key_scales,
                            const device uchar *key_zero_points, const device float *key_mean,
                            const device uchar *value_scales, const device uchar *value_zero_points) {
    mfa_keys keys;
    keys.key = key;
    keys.value = value;
    if (has_key_codes)
        keys.key_terms.scales = key_scales;
    if (has_key_zero_points)
        keys.key_terms.zero_points = key_zero_points;
    if (has_key_mean)
        keys.key_terms.mean = key_mean;
    if (has_value_codes)
        keys.value_terms.scales = value_scales;
    if (has_value_zero_points)
        keys.value_terms.zero_points = value_zero_points;
    return keys;
}

inline mfa_rows<MFA_K> mfa_key_rows(constant mfa_metal_params &p, mfa_keys keys, mfa_sequence sequence,
                                    mfa_index kv_head) {
    mfa_rows<MFA_K> rows = mfa_cache_rows_of(keys.key, p, p.key, sequence, kv_head, p.head_dim);
    mfa_find_coding(rows.coding, p.key_coding, key_codes, keys.key_terms, sequence, mfa_key_origin(sequence), kv_head);
    return rows;
}

inline mfa_rows<MFA_V> mfa_value_rows(constant mfa_metal_params &p, mfa_keys keys, mfa_sequence sequence,
                                      mfa_index kv_head) {
    mfa_rows<MFA_V> rows = mfa_cache_rows_of(keys.value, p, p.value, sequence, kv_head, p.value_dim);
    mfa_find_coding(rows.coding, p.value_coding, value_codes, keys.value_terms, sequence, mfa_key_origin(sequence),
                    kv_head);
    return rows;
}

/* ------------------------------------------------------------------ queries of the forward pass */

#define MFA_FORWARD_ARGUMENTS                                                                                   \
    const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],                                                     \
        const device mfa_metal_query_terms *query_terms                                                         \
        [[buffer(MFA_BUFFER_QUERY_TERMS), function_constant(has_integer_keys)]],                                \
        const device MFA_T *query_value [[buffer(MFA_BUFFER_QUERY_VALUE), function_constant(has_query_value)]], \
        const device float *query_scale [[buffer(MFA_BUFFER_QUERY_SCALE), function_constant(has_query_scale)]], \
        const device float *key_scale [[buffer(MFA_BUFFER_KEY_SCALE), function_constant(has_key_scale)]]
#define MFA_QUERIES mfa_queries_of(query, query_terms, query_value, query_scale, key_scale)

/* Those that are there. */
struct mfa_queries {
    const device MFA_T *query, *query_value;
    const device mfa_metal_query_terms *terms;
    const device float *query_scale, *key_scale;
};

inline mfa_queries mfa_queries_of(const device MFA_T *query, const device mfa_metal_query_terms *terms,
                                  const device MFA_T *query_value, const device float *query_scale,
                                  const device float *key_scale) {
    mfa_queries queries;
    queries.query = query;
    if (has_integer_keys)
        queries.terms = terms;
    if (has_query_value)
        queries.query_value = query_value;
    if (has_query_scale)
        queries.query_scale = query_scale;
    if (has_key_scale)
        queries.key_scale = key_scale;
    return queries;
}

inline mfa_rows<MFA_T> mfa_query_rows(constant mfa_metal_params &p, mfa_queries queries, mfa_sequence sequence,
                                      mfa_index head) {
    if (has_own_queries)
        return mfa_rows_of(queries.query, p.turned, sequence.queries, head, p.head_dim);
    return mfa_rows_of(queries.query, p.query, sequence.queries, head, p.head_dim);
}

/* There have to be some. */
inline mfa_rows<MFA_T> mfa_query_value_rows(constant mfa_metal_params &p, mfa_queries queries, mfa_sequence sequence,
                                            mfa_index head) {
    return mfa_rows_of(queries.query_value, p.query_value, sequence.queries, head, p.value_dim);
}

/* ------------------------------------------------------------------ what is added to scores, or hides them */

#define MFA_BIAS_ARGUMENTS                                                                                            \
    const device uchar *bool_mask [[buffer(MFA_BUFFER_BOOL_MASK), function_constant(has_bool_mask)]],                 \
        const device uchar *additive_mask [[buffer(MFA_BUFFER_ADDITIVE_MASK), function_constant(has_additive_mask)]], \
        const device float *alibi_slopes [[buffer(MFA_BUFFER_ALIBI_SLOPES), function_constant(has_alibi)]],           \
        const device mfa_u32 *block_words [[buffer(MFA_BUFFER_BLOCKS), function_constant(has_blocks)]],               \
        const device uchar *block_masks [[buffer(MFA_BUFFER_MASKS), function_constant(has_block_masks)]]
#define MFA_BIASES mfa_biases_of(bool_mask, additive_mask, alibi_slopes, block_words, block_masks)

/* Those that are there. */
struct mfa_biases {
    const device uchar *bool_mask, *additive_mask;
    const device float *alibi_slopes;
    const device mfa_u32 *block_words;
    const device uchar *block_masks;
};

inline mfa_biases mfa_biases_of(const device uchar *bool_mask, const device uchar *additive_mask,
                                const device float *alibi_slopes, const device mfa_u32 *block_words,
                                const device uchar *block_masks) {
    mfa_biases biases;
    if (has_bool_mask)
        biases.bool_mask = bool_mask;
    if (has_additive_mask)
        biases.additive_mask = additive_mask;
    if (has_alibi)
        biases.alibi_slopes = alibi_slopes;
    if (has_blocks)
        biases.block_words = block_words;
    if (has_block_masks)
        biases.block_masks = block_masks;
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

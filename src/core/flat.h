/* How flat arguments become a descriptor, for the calls of the simple tier. */
#ifndef MFA_CORE_FLAT_H
#define MFA_CORE_FLAT_H

#include "core/status.h"

typedef struct {
    uint32_t batch_size, seq_len, num_heads;
    uint16_t head_dim;
    mfa_precision_t precision;
} mfai_flat_operand_t;

/* [batch, seq, heads, head_dim], rows of whole bytes, or [batch, heads, head_dim, seq] if transposed. */
mfa_status_t mfai_flat_describe(const char *name, mfa_buffer_t buffer, const mfai_flat_operand_t *operand,
                                bool transposed, mfa_tensor_t *tensor);

/* What both passes take, as the caller gave it. */
typedef struct {
    uint32_t batch_size, seq_len_q, seq_len_kv, num_heads;
    uint16_t head_dim;
    float softmax_scale;
    bool causal;
    mfa_precision_t query_precision, key_precision, value_precision, intermediate_precision, output_precision;
    bool transpose_q, transpose_k, transpose_v, transpose_o;
} mfai_flat_call_t;

/* Operands with as many rows as queries have, or keys. */
mfai_flat_operand_t mfai_flat_queries(const mfai_flat_call_t *call, mfa_precision_t precision);
mfai_flat_operand_t mfai_flat_keys(const mfai_flat_call_t *call, mfa_precision_t precision);

/* A float32 for each row of queries: (batch, heads, seq_q). */
mfa_status_t mfai_flat_describe_rows(const char *name, const mfai_flat_call_t *call, mfa_buffer_t buffer,
                                     mfa_tensor_t *tensor);

enum { MFAI_FLAT_Q, MFAI_FLAT_K, MFAI_FLAT_V, MFAI_FLAT_OUT, MFAI_FLAT_TENSORS };

/* The descriptor of the forward pass, over `tensors`, without an `out` if that is to be the backward pass's `delta`. */
mfa_status_t mfai_flat_describe_forward(mfa_context_t context, const mfai_flat_call_t *call, mfa_buffer_t q,
                                        mfa_buffer_t k, mfa_buffer_t v, mfa_tensor_t tensors[MFAI_FLAT_TENSORS],
                                        mfa_attention_desc_t *desc);

/* Adds `out` to it. */
mfa_status_t mfai_flat_describe_out(const mfai_flat_call_t *call, mfa_buffer_t out,
                                    mfa_tensor_t tensors[MFAI_FLAT_TENSORS], mfa_attention_desc_t *desc);

#endif

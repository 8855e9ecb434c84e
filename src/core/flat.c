/* The simple tier: flat arguments become a descriptor. */
#include "core/flat.h"

#include "core/entry.h"
#include "core/format.h"

/* Four factors of at most 32, 32, 32 and 17 bits can leave 64 bits, so the products are checked. */
mfa_status_t mfai_flat_describe(const char *name, mfa_buffer_t buffer, const mfai_flat_operand_t *o, bool transposed,
                                mfa_tensor_t *tensor) {
    MFAI_REQUIRE(buffer != NULL, "%s is NULL", name);
    const bool is_packed = o->precision == MFA_PRECISION_INT4 || o->precision == MFA_PRECISION_UINT4;
    int64_t heads = o->num_heads, seq = o->seq_len, dim = is_packed ? o->head_dim + o->head_dim % 2 : o->head_dim;
    int64_t plane, batch_stride;
    MFAI_REQUIRE(!__builtin_mul_overflow(heads * dim, seq, &batch_stride) && !__builtin_mul_overflow(dim, seq, &plane),
                 "%s: seq_len %u * num_heads %u * head_dim %u overflows 64 bits", name, o->seq_len, o->num_heads,
                 o->head_dim);
    *tensor = (mfa_tensor_t)MFA_TENSOR_INIT;
    tensor->precision = o->precision;
    tensor->buffer = buffer;
    const int64_t shape[4] = {o->batch_size, heads, seq, o->head_dim};
    const int64_t plain[4] = {batch_stride, dim, heads * dim, 1};
    const int64_t turned[4] = {batch_stride, plane, 1, seq};
    for (int axis = 0; axis < 4; ++axis) {
        tensor->shape[axis] = shape[axis];
        tensor->stride[axis] = transposed ? turned[axis] : plain[axis];
    }
    return MFA_SUCCESS;
}

mfai_flat_operand_t mfai_flat_queries(const mfai_flat_call_t *a, mfa_precision_t precision) {
    return (mfai_flat_operand_t){a->batch_size, a->seq_len_q, a->num_heads, a->head_dim, precision};
}

mfai_flat_operand_t mfai_flat_keys(const mfai_flat_call_t *a, mfa_precision_t precision) {
    return (mfai_flat_operand_t){a->batch_size, a->seq_len_kv, a->num_heads, a->head_dim, precision};
}

mfa_status_t mfai_flat_describe_rows(const char *name, const mfai_flat_call_t *a, mfa_buffer_t buffer,
                                     mfa_tensor_t *tensor) {
    const mfai_flat_operand_t rows = {a->batch_size, a->seq_len_q, a->num_heads, 1, MFA_PRECISION_FP32};
    return mfai_flat_describe(name, buffer, &rows, true, tensor);
}

mfa_status_t mfai_flat_describe_forward(mfa_context_t context, const mfai_flat_call_t *a, mfa_buffer_t q,
                                        mfa_buffer_t k, mfa_buffer_t v, mfa_tensor_t tensors[MFAI_FLAT_TENSORS],
                                        mfa_attention_desc_t *desc) {
    MFAI_REQUIRE(context != NULL, "context is NULL");
    const mfai_flat_operand_t query = mfai_flat_queries(a, a->query_precision),
                              key = mfai_flat_keys(a, a->key_precision), value = mfai_flat_keys(a, a->value_precision);
    MFAI_TRY(mfai_flat_describe("q", q, &query, a->transpose_q, &tensors[MFAI_FLAT_Q]));
    MFAI_TRY(mfai_flat_describe("k", k, &key, a->transpose_k, &tensors[MFAI_FLAT_K]));
    MFAI_TRY(mfai_flat_describe("v", v, &value, a->transpose_v, &tensors[MFAI_FLAT_V]));
    *desc = (mfa_attention_desc_t)MFA_ATTENTION_DESC_INIT;
    desc->flags = MFA_ATTENTION_LITERAL_SCALE | (a->causal ? MFA_ATTENTION_CAUSAL : 0);
    desc->query = &tensors[MFAI_FLAT_Q];
    desc->key = &tensors[MFAI_FLAT_K];
    desc->value = &tensors[MFAI_FLAT_V];
    desc->softmax_scale = a->softmax_scale;
    desc->alignment = MFA_ALIGN_BOTTOM_RIGHT;
    desc->intermediate_precision = a->intermediate_precision;
    return MFA_SUCCESS;
}

mfa_status_t mfai_flat_describe_out(const mfai_flat_call_t *a, mfa_buffer_t out,
                                    mfa_tensor_t tensors[MFAI_FLAT_TENSORS], mfa_attention_desc_t *desc) {
    const mfai_flat_operand_t result = mfai_flat_queries(a, a->output_precision);
    desc->out = &tensors[MFAI_FLAT_OUT];
    return mfai_flat_describe("out", out, &result, a->transpose_o, &tensors[MFAI_FLAT_OUT]);
}

/* As all calls of one precision for query, key and value are described. */
static mfa_status_t describe_forward(mfa_context_t context, const mfai_flat_call_t *a, mfa_buffer_t q, mfa_buffer_t k,
                                     mfa_buffer_t v, mfa_buffer_t out, mfa_tensor_t tensors[MFAI_FLAT_TENSORS],
                                     mfa_attention_desc_t *desc) {
    MFAI_REQUIRE(a->intermediate_precision >= MFA_PRECISION_FP16 && a->intermediate_precision <= MFA_PRECISION_FP32,
                 "intermediate_precision is %d, expected FP16, BF16 or FP32", a->intermediate_precision);
    MFAI_TRY(mfai_flat_describe_forward(context, a, q, k, v, tensors, desc));
    return mfai_flat_describe_out(a, out, tensors, desc);
}

#define ARGUMENTS            \
    {batch_size,             \
     seq_len_q,              \
     seq_len_kv,             \
     num_heads,              \
     head_dim,               \
     softmax_scale,          \
     causal,                 \
     input_precision,        \
     input_precision,        \
     input_precision,        \
     intermediate_precision, \
     output_precision,       \
     transpose_q,            \
     transpose_k,            \
     transpose_v,            \
     transpose_o}

mfa_status_t mfa_attention_forward(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                   mfa_buffer_t out, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
                                   uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
                                   mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
                                   mfa_precision_t output_precision, bool transpose_q, bool transpose_k,
                                   bool transpose_v, bool transpose_o) {
    MFAI_ENTRY;
    const mfai_flat_call_t a = ARGUMENTS;
    mfa_tensor_t tensors[MFAI_FLAT_TENSORS];
    mfa_attention_desc_t desc;
    MFAI_TRY(describe_forward(context, &a, q, k, v, out, tensors, &desc));
    return mfa_attention_forward_desc(context, &desc);
}

mfa_status_t mfa_attention_forward_with_lse(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                            mfa_buffer_t out, mfa_buffer_t logsumexp, uint32_t batch_size,
                                            uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads,
                                            uint16_t head_dim, float softmax_scale, bool causal,
                                            mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
                                            mfa_precision_t output_precision, bool transpose_q, bool transpose_k,
                                            bool transpose_v, bool transpose_o) {
    MFAI_ENTRY;
    const mfai_flat_call_t a = ARGUMENTS;
    mfa_tensor_t tensors[MFAI_FLAT_TENSORS], row_tensor;
    mfa_attention_desc_t desc;
    MFAI_TRY(describe_forward(context, &a, q, k, v, out, tensors, &desc));
    MFAI_TRY(mfai_flat_describe_rows("logsumexp", &a, logsumexp, &row_tensor));
    desc.logsumexp = &row_tensor;
    return mfa_attention_forward_desc(context, &desc);
}

mfa_status_t mfa_attention_backward(mfa_context_t context, mfa_buffer_t dout, mfa_buffer_t q, mfa_buffer_t k,
                                    mfa_buffer_t v, mfa_buffer_t out, mfa_buffer_t logsumexp, mfa_buffer_t dq,
                                    mfa_buffer_t dk, mfa_buffer_t dv, uint32_t batch_size, uint32_t seq_len_q,
                                    uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim, float softmax_scale,
                                    bool causal, mfa_precision_t input_precision,
                                    mfa_precision_t intermediate_precision, mfa_precision_t output_precision,
                                    bool transpose_q, bool transpose_k, bool transpose_v, bool transpose_o) {
    MFAI_ENTRY;
    const mfai_flat_call_t a = ARGUMENTS;
    mfa_tensor_t tensors[MFAI_FLAT_TENSORS], row_tensor, tensor_do, tensor_dq, tensor_dk, tensor_dv;
    mfa_attention_desc_t forward;
    MFAI_TRY(describe_forward(context, &a, q, k, v, out, tensors, &forward));
    MFAI_TRY(mfai_flat_describe_rows("logsumexp", &a, logsumexp, &row_tensor));
    forward.logsumexp = &row_tensor;
    const mfai_flat_operand_t query = mfai_flat_queries(&a, output_precision),
                              key = mfai_flat_keys(&a, output_precision);
    MFAI_TRY(mfai_flat_describe("dout", dout, &query, transpose_o, &tensor_do));
    MFAI_TRY(mfai_flat_describe("dq", dq, &query, transpose_q, &tensor_dq));
    MFAI_TRY(mfai_flat_describe("dk", dk, &key, transpose_k, &tensor_dk));
    MFAI_TRY(mfai_flat_describe("dv", dv, &key, transpose_v, &tensor_dv));
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    desc.forward = &forward;
    desc.dout = &tensor_do;
    desc.dquery = &tensor_dq;
    desc.dkey = &tensor_dk;
    desc.dvalue = &tensor_dv;
    return mfa_attention_backward_desc(context, &desc);
}

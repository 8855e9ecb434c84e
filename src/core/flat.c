/* The simple tier: flat arguments become a descriptor. */
#include "core/status.h"

typedef struct {
    uint32_t batch_size, seq_len, num_heads;
    uint16_t head_dim;
    mfa_precision_t precision;
} operand;

/* [batch, seq, heads, head_dim], or [batch, heads, head_dim, seq] if transposed. Four factors of at most 32, 32, 32 and
   16 bits can leave 64 bits, so the products are checked. */
static mfa_status_t describe(const char *name, mfa_buffer_t buffer, const operand *o, bool transposed,
                             mfa_tensor_t *tensor) {
    MFA_REQUIRE(buffer != NULL, "%s is NULL", name);
    int64_t heads = o->num_heads, seq = o->seq_len, dim = o->head_dim, plane, batch_stride;
    MFA_REQUIRE(!__builtin_mul_overflow(heads * dim, seq, &batch_stride) && !__builtin_mul_overflow(dim, seq, &plane),
                "%s: seq_len %u * num_heads %u * head_dim %u overflows 64 bits", name, o->seq_len, o->num_heads,
                o->head_dim);
    *tensor = (mfa_tensor_t)MFA_TENSOR_INIT;
    tensor->precision = o->precision;
    tensor->buffer = buffer;
    const int64_t shape[4] = {o->batch_size, heads, seq, dim};
    const int64_t plain[4] = {batch_stride, dim, heads * dim, 1};
    const int64_t turned[4] = {batch_stride, plane, 1, seq};
    for (int axis = 0; axis < 4; ++axis) {
        tensor->shape[axis] = shape[axis];
        tensor->stride[axis] = transposed ? turned[axis] : plain[axis];
    }
    return MFA_SUCCESS;
}

static mfa_status_t forward(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
                            const mfa_tensor_t *logsumexp, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
                            uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
                            mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
                            mfa_precision_t output_precision, bool transpose_q, bool transpose_k, bool transpose_v,
                            bool transpose_o) {
    MFA_REQUIRE(context != NULL, "context is NULL");
    MFA_REQUIRE(intermediate_precision >= MFA_PRECISION_FP16 && intermediate_precision <= MFA_PRECISION_FP32,
                "intermediate_precision is %d, expected FP16, BF16 or FP32", intermediate_precision);
    const operand queries = {batch_size, seq_len_q, num_heads, head_dim, input_precision};
    const operand keys = {batch_size, seq_len_kv, num_heads, head_dim, input_precision};
    const operand outputs = {batch_size, seq_len_q, num_heads, head_dim, output_precision};
    mfa_tensor_t tensor_q, tensor_k, tensor_v, tensor_o;
    MFA_TRY(describe("q", q, &queries, transpose_q, &tensor_q));
    MFA_TRY(describe("k", k, &keys, transpose_k, &tensor_k));
    MFA_TRY(describe("v", v, &keys, transpose_v, &tensor_v));
    MFA_TRY(describe("out", out, &outputs, transpose_o, &tensor_o));
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.flags = MFA_ATTENTION_LITERAL_SCALE | (causal ? MFA_ATTENTION_CAUSAL : 0);
    desc.query = &tensor_q;
    desc.key = &tensor_k;
    desc.value = &tensor_v;
    desc.out = &tensor_o;
    desc.logsumexp = logsumexp;
    desc.softmax_scale = softmax_scale;
    desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    desc.intermediate_precision = intermediate_precision;
    return mfa_attention_forward_desc(context, &desc);
}

mfa_status_t mfa_attention_forward(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                   mfa_buffer_t out, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
                                   uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
                                   mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
                                   mfa_precision_t output_precision, bool transpose_q, bool transpose_k,
                                   bool transpose_v, bool transpose_o) {
    return forward(context, q, k, v, out, NULL, batch_size, seq_len_q, seq_len_kv, num_heads, head_dim, softmax_scale,
                   causal, input_precision, intermediate_precision, output_precision, transpose_q, transpose_k,
                   transpose_v, transpose_o);
}

mfa_status_t mfa_attention_forward_with_lse(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                            mfa_buffer_t out, mfa_buffer_t logsumexp, uint32_t batch_size,
                                            uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads,
                                            uint16_t head_dim, float softmax_scale, bool causal,
                                            mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
                                            mfa_precision_t output_precision, bool transpose_q, bool transpose_k,
                                            bool transpose_v, bool transpose_o) {
    const operand rows = {batch_size, seq_len_q, num_heads, 1, MFA_PRECISION_FP32};
    mfa_tensor_t tensor;
    MFA_TRY(describe("logsumexp", logsumexp, &rows, true, &tensor));
    return forward(context, q, k, v, out, &tensor, batch_size, seq_len_q, seq_len_kv, num_heads, head_dim,
                   softmax_scale, causal, input_precision, intermediate_precision, output_precision, transpose_q,
                   transpose_k, transpose_v, transpose_o);
}

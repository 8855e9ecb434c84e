/* The simple tier: flat arguments become a descriptor. */
#include "core/entry.h"
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
    MFAI_REQUIRE(buffer != NULL, "%s is NULL", name);
    int64_t heads = o->num_heads, seq = o->seq_len, dim = o->head_dim, plane, batch_stride;
    MFAI_REQUIRE(!__builtin_mul_overflow(heads * dim, seq, &batch_stride) && !__builtin_mul_overflow(dim, seq, &plane),
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

/* What both passes take, as the caller gave it. */
typedef struct {
    uint32_t batch_size, seq_len_q, seq_len_kv, num_heads;
    uint16_t head_dim;
    float softmax_scale;
    bool causal;
    mfa_precision_t input_precision, intermediate_precision, output_precision;
    bool transpose_q, transpose_k, transpose_v, transpose_o;
} arguments;

static operand queries(const arguments *a, mfa_precision_t precision) {
    return (operand){a->batch_size, a->seq_len_q, a->num_heads, a->head_dim, precision};
}

static operand keys(const arguments *a, mfa_precision_t precision) {
    return (operand){a->batch_size, a->seq_len_kv, a->num_heads, a->head_dim, precision};
}

static mfa_status_t describe_logsumexp(const arguments *a, mfa_buffer_t buffer, mfa_tensor_t *tensor) {
    const operand rows = {a->batch_size, a->seq_len_q, a->num_heads, 1, MFA_PRECISION_FP32};
    return describe("logsumexp", buffer, &rows, true, tensor);
}

/* The descriptor of the forward pass, over `tensors`: q, k, v, out. */
static mfa_status_t describe_forward(mfa_context_t context, const arguments *a, mfa_buffer_t q, mfa_buffer_t k,
                                     mfa_buffer_t v, mfa_buffer_t out, mfa_tensor_t tensors[4],
                                     mfa_attention_desc_t *desc) {
    MFAI_REQUIRE(context != NULL, "context is NULL");
    MFAI_REQUIRE(a->intermediate_precision >= MFA_PRECISION_FP16 && a->intermediate_precision <= MFA_PRECISION_FP32,
                 "intermediate_precision is %d, expected FP16, BF16 or FP32", a->intermediate_precision);
    const operand query = queries(a, a->input_precision), key = keys(a, a->input_precision),
                  result = queries(a, a->output_precision);
    MFAI_TRY(describe("q", q, &query, a->transpose_q, &tensors[0]));
    MFAI_TRY(describe("k", k, &key, a->transpose_k, &tensors[1]));
    MFAI_TRY(describe("v", v, &key, a->transpose_v, &tensors[2]));
    MFAI_TRY(describe("out", out, &result, a->transpose_o, &tensors[3]));
    *desc = (mfa_attention_desc_t)MFA_ATTENTION_DESC_INIT;
    desc->flags = MFA_ATTENTION_LITERAL_SCALE | (a->causal ? MFA_ATTENTION_CAUSAL : 0);
    desc->query = &tensors[0];
    desc->key = &tensors[1];
    desc->value = &tensors[2];
    desc->out = &tensors[3];
    desc->softmax_scale = a->softmax_scale;
    desc->alignment = MFA_ALIGN_BOTTOM_RIGHT;
    desc->intermediate_precision = a->intermediate_precision;
    return MFA_SUCCESS;
}

#define ARGUMENTS                                               \
    {batch_size,       seq_len_q,       seq_len_kv,             \
     num_heads,        head_dim,        softmax_scale,          \
     causal,           input_precision, intermediate_precision, \
     output_precision, transpose_q,     transpose_k,            \
     transpose_v,      transpose_o}

mfa_status_t mfa_attention_forward(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                   mfa_buffer_t out, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
                                   uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
                                   mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
                                   mfa_precision_t output_precision, bool transpose_q, bool transpose_k,
                                   bool transpose_v, bool transpose_o) {
    MFAI_ENTRY;
    const arguments a = ARGUMENTS;
    mfa_tensor_t tensors[4];
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
    const arguments a = ARGUMENTS;
    mfa_tensor_t tensors[4], row_tensor;
    mfa_attention_desc_t desc;
    MFAI_TRY(describe_forward(context, &a, q, k, v, out, tensors, &desc));
    MFAI_TRY(describe_logsumexp(&a, logsumexp, &row_tensor));
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
    const arguments a = ARGUMENTS;
    mfa_tensor_t tensors[4], row_tensor, tensor_do, tensor_dq, tensor_dk, tensor_dv;
    mfa_attention_desc_t forward;
    MFAI_TRY(describe_forward(context, &a, q, k, v, out, tensors, &forward));
    MFAI_TRY(describe_logsumexp(&a, logsumexp, &row_tensor));
    forward.logsumexp = &row_tensor;
    const operand query = queries(&a, output_precision), key = keys(&a, output_precision);
    MFAI_TRY(describe("dout", dout, &query, transpose_o, &tensor_do));
    MFAI_TRY(describe("dq", dq, &query, transpose_q, &tensor_dq));
    MFAI_TRY(describe("dk", dk, &key, transpose_k, &tensor_dk));
    MFAI_TRY(describe("dv", dv, &key, transpose_v, &tensor_dv));
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    desc.forward = &forward;
    desc.dout = &tensor_do;
    desc.dquery = &tensor_dq;
    desc.dkey = &tensor_dk;
    desc.dvalue = &tensor_dv;
    return mfa_attention_backward_desc(context, &desc);
}

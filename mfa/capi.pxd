# The calls of mfa.h through Cython's own C API: `from mfa cimport capi` needs mfa.get_include() to compile
# and nothing to link. Names and types are those of mfa.c_mfa; declarations of mfa.h are not repeated here.

from libc.stdint cimport int32_t, uint16_t, uint32_t

from mfa.c_mfa cimport (
    c_bool,
    mfa_attention_backward_desc_t,
    mfa_attention_desc_t,
    mfa_buffer_t,
    mfa_context_info_t,
    mfa_context_options_t,
    mfa_context_t,
    mfa_plan_t,
    mfa_precision_t,
    mfa_quantization_params_t,
    mfa_quantize_desc_t,
    mfa_shape_t,
    mfa_status_t,
)

# Raises what a status other than MFA_SUCCESS stands for; call it on the thread that got the status.
cdef int check(mfa_status_t status) except -1

cdef mfa_status_t mfa_create_context(mfa_context_t *context) noexcept nogil
cdef mfa_status_t mfa_create_context_with_options(
    const mfa_context_options_t *options, mfa_context_t *context) noexcept nogil
cdef void mfa_destroy_context(mfa_context_t context) noexcept nogil
cdef mfa_status_t mfa_context_describe(mfa_context_t context, mfa_context_info_t *info) noexcept nogil
cdef mfa_status_t mfa_context_trim(mfa_context_t context) noexcept nogil

cdef mfa_status_t mfa_create_buffer(
    mfa_context_t context, size_t size_bytes, mfa_buffer_t *buffer) noexcept nogil
cdef mfa_status_t mfa_buffer_from_ptr(
    mfa_context_t context, void *data, size_t size_bytes, mfa_buffer_t *buffer) noexcept nogil
cdef mfa_status_t mfa_buffer_from_mtl_buffer(
    mfa_context_t context, void *mtl_buffer, mfa_buffer_t *buffer) noexcept nogil
cdef void *mfa_buffer_contents(mfa_buffer_t buffer) noexcept nogil
cdef size_t mfa_buffer_size(mfa_buffer_t buffer) noexcept nogil
cdef c_bool mfa_buffer_is_zero_copy(mfa_buffer_t buffer) noexcept nogil
cdef void mfa_destroy_buffer(mfa_buffer_t buffer) noexcept nogil

cdef mfa_status_t mfa_attention_forward(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
    uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
    float softmax_scale, c_bool causal, mfa_precision_t input_precision,
    mfa_precision_t intermediate_precision, mfa_precision_t output_precision, c_bool transpose_q,
    c_bool transpose_k, c_bool transpose_v, c_bool transpose_o) noexcept nogil
cdef mfa_status_t mfa_attention_forward_with_lse(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
    mfa_buffer_t logsumexp, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads,
    uint16_t head_dim, float softmax_scale, c_bool causal, mfa_precision_t input_precision,
    mfa_precision_t intermediate_precision, mfa_precision_t output_precision, c_bool transpose_q,
    c_bool transpose_k, c_bool transpose_v, c_bool transpose_o) noexcept nogil
cdef mfa_status_t mfa_attention_backward(
    mfa_context_t context, mfa_buffer_t dout, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
    mfa_buffer_t out, mfa_buffer_t logsumexp, mfa_buffer_t dq, mfa_buffer_t dk, mfa_buffer_t dv,
    uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
    float softmax_scale, c_bool causal, mfa_precision_t input_precision,
    mfa_precision_t intermediate_precision, mfa_precision_t output_precision, c_bool transpose_q,
    c_bool transpose_k, c_bool transpose_v, c_bool transpose_o) noexcept nogil
cdef mfa_status_t mfa_attention_forward_desc(
    mfa_context_t context, const mfa_attention_desc_t *desc) noexcept nogil
cdef mfa_status_t mfa_attention_forward_plan(
    mfa_context_t context, const mfa_attention_desc_t *desc, mfa_plan_t *plan) noexcept nogil
cdef mfa_status_t mfa_attention_backward_desc(
    mfa_context_t context, const mfa_attention_backward_desc_t *desc) noexcept nogil
cdef mfa_status_t mfa_attention_backward_plan(
    mfa_context_t context, const mfa_attention_backward_desc_t *desc, mfa_plan_t *plan) noexcept nogil

cdef mfa_status_t mfa_quantize(mfa_context_t context, const mfa_quantize_desc_t *desc) noexcept nogil
cdef mfa_status_t mfa_create_quantized_buffer(
    mfa_context_t context, size_t size_bytes, mfa_precision_t precision, float scale, int32_t zero_point,
    mfa_buffer_t *buffer) noexcept nogil
cdef mfa_status_t mfa_quantize_tensor_batch(
    mfa_context_t context, const mfa_buffer_t *inputs_fp32, const mfa_buffer_t *outputs,
    const mfa_quantization_params_t *params, size_t tensor_count) noexcept nogil
cdef mfa_status_t mfa_validate_quantization_params(
    const mfa_quantization_params_t *params, float range_min, float range_max) noexcept nogil
cdef size_t mfa_calculate_memory_reduction(
    const mfa_shape_t *shape, mfa_precision_t from_precision, mfa_precision_t to_precision) noexcept nogil
cdef float mfa_estimate_quantization_error(
    mfa_buffer_t original_fp32, mfa_buffer_t quantized,
    const mfa_quantization_params_t *params) noexcept nogil
cdef mfa_status_t mfa_attention_forward_mixed(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
    uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
    float softmax_scale, c_bool causal, mfa_precision_t query_precision, mfa_precision_t key_precision,
    mfa_precision_t value_precision, mfa_precision_t output_precision, c_bool transpose_q, c_bool transpose_k,
    c_bool transpose_v, c_bool transpose_o) noexcept nogil
cdef mfa_status_t mfa_attention_forward_quantized(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
    mfa_buffer_t logsumexp, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads,
    uint16_t head_dim, float softmax_scale, c_bool causal, const mfa_quantization_params_t *key_params,
    const mfa_quantization_params_t *value_params) noexcept nogil
cdef mfa_status_t mfa_attention_backward_query_quantized(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
    mfa_buffer_t grad_output, mfa_buffer_t logsumexp, mfa_buffer_t grad_query, mfa_buffer_t d_values,
    uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
    float softmax_scale, c_bool causal, const mfa_quantization_params_t *key_params,
    const mfa_quantization_params_t *value_params) noexcept nogil
cdef mfa_status_t mfa_attention_backward_kv_quantized(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t grad_output,
    mfa_buffer_t logsumexp, mfa_buffer_t d_values, mfa_buffer_t grad_key, mfa_buffer_t grad_value,
    uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
    float softmax_scale, c_bool causal, const mfa_quantization_params_t *key_params,
    const mfa_quantization_params_t *value_params) noexcept nogil

cdef mfa_status_t mfa_attention_forward_encode(
    mfa_context_t context, const mfa_attention_desc_t *desc, void *target) noexcept nogil
cdef mfa_status_t mfa_attention_backward_encode(
    mfa_context_t context, const mfa_attention_backward_desc_t *desc, void *target) noexcept nogil

cdef const char *mfa_error_string(mfa_status_t status) noexcept nogil
cdef const char *mfa_last_error_message(mfa_context_t context) noexcept nogil
cdef c_bool mfa_is_device_supported() noexcept nogil
cdef void mfa_get_version(int *major, int *minor, int *patch) noexcept nogil
cdef double mfa_get_gpu_latency(mfa_context_t context) noexcept nogil

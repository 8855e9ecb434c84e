# The calls of mfa.h through Cython's own C API: `from mfa cimport capi` needs mfa.get_include() to compile
# and nothing to link. Names and types are those of mfa.c_mfa; declarations of mfa.h are not repeated here.

from libc.stdint cimport uint16_t, uint32_t

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

cdef mfa_status_t mfa_attention_forward_encode(
    mfa_context_t context, const mfa_attention_desc_t *desc, void *target) noexcept nogil
cdef mfa_status_t mfa_attention_backward_encode(
    mfa_context_t context, const mfa_attention_backward_desc_t *desc, void *target) noexcept nogil

cdef const char *mfa_error_string(mfa_status_t status) noexcept nogil
cdef const char *mfa_last_error_message(mfa_context_t context) noexcept nogil
cdef c_bool mfa_is_device_supported() noexcept nogil
cdef void mfa_get_version(int *major, int *minor, int *patch) noexcept nogil
cdef double mfa_get_gpu_latency(mfa_context_t context) noexcept nogil

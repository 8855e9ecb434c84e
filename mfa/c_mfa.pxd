# mfa.h as Cython sees it. Calling these functions needs libmfa at link time; mfa.capi offers the same calls
# without.

from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint c_bool "bool"

cdef extern from "mfa.h" nogil:
    enum:
        MFA_VERSION_MAJOR
        MFA_VERSION_MINOR
        MFA_VERSION_PATCH

    ctypedef int32_t mfa_status_t
    ctypedef mfa_status_t mfa_error_t

    enum:
        MFA_SUCCESS
        MFA_ERROR_INVALID_ARGS
        MFA_ERROR_MEMORY_ALLOCATION
        MFA_ERROR_DEVICE_NOT_SUPPORTED
        MFA_ERROR_KERNEL_COMPILATION
        MFA_ERROR_EXECUTION_FAILED
        MFA_ERROR_UNSUPPORTED

    ctypedef int32_t mfa_precision_t

    enum:
        MFA_PRECISION_DEFAULT
        MFA_PRECISION_FP16
        MFA_PRECISION_BF16
        MFA_PRECISION_FP32
        MFA_PRECISION_INT8
        MFA_PRECISION_INT4
        MFA_PRECISION_BOOL
        MFA_PRECISION_INT32
        MFA_PRECISION_UINT8
        MFA_PRECISION_UINT4

    struct mfa_context:
        pass
    struct mfa_buffer:
        pass
    ctypedef mfa_context *mfa_context_t
    ctypedef mfa_buffer *mfa_buffer_t

    enum:
        MFA_BACKEND_AUTO
        MFA_BACKEND_CPU
        MFA_BACKEND_METAL

        MFA_CPU_ISA_AUTO
        MFA_CPU_ISA_SCALAR
        MFA_CPU_ISA_AVX2
        MFA_CPU_ISA_AVX512
        MFA_CPU_ISA_NEON

    const uint32_t MFA_CONTEXT_ALLOW_CPU_FALLBACK

    ctypedef struct mfa_context_options_t:
        uint32_t struct_size
        int32_t backend
        int32_t device
        int32_t num_threads
        int32_t cpu_isa
        uint32_t flags

    ctypedef struct mfa_context_info_t:
        uint32_t struct_size
        int32_t backend
        int32_t num_threads
        int32_t cpu_isa
        uint32_t flags
        char backend_name[16]
        char isa_name[16]
        char device_name[96]

    mfa_status_t mfa_create_context(mfa_context_t *context)
    mfa_status_t mfa_create_context_with_options(const mfa_context_options_t *options, mfa_context_t *context)
    void mfa_destroy_context(mfa_context_t context)
    mfa_status_t mfa_context_describe(mfa_context_t context, mfa_context_info_t *info)
    mfa_status_t mfa_context_trim(mfa_context_t context)

    mfa_status_t mfa_create_buffer(mfa_context_t context, size_t size_bytes, mfa_buffer_t *buffer)
    mfa_status_t mfa_buffer_from_ptr(
        mfa_context_t context, void *data, size_t size_bytes, mfa_buffer_t *buffer)
    mfa_status_t mfa_buffer_from_mtl_buffer(mfa_context_t context, void *mtl_buffer, mfa_buffer_t *buffer)
    void *mfa_buffer_contents(mfa_buffer_t buffer)
    size_t mfa_buffer_size(mfa_buffer_t buffer)
    c_bool mfa_buffer_is_zero_copy(mfa_buffer_t buffer)
    void mfa_destroy_buffer(mfa_buffer_t buffer)

    mfa_status_t mfa_attention_forward(
        mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
        uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
        float softmax_scale, c_bool causal, mfa_precision_t input_precision,
        mfa_precision_t intermediate_precision, mfa_precision_t output_precision, c_bool transpose_q,
        c_bool transpose_k, c_bool transpose_v, c_bool transpose_o)
    mfa_status_t mfa_attention_forward_with_lse(
        mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
        mfa_buffer_t logsumexp, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
        uint32_t num_heads, uint16_t head_dim, float softmax_scale, c_bool causal,
        mfa_precision_t input_precision, mfa_precision_t intermediate_precision,
        mfa_precision_t output_precision, c_bool transpose_q, c_bool transpose_k, c_bool transpose_v,
        c_bool transpose_o)
    mfa_status_t mfa_attention_backward(
        mfa_context_t context, mfa_buffer_t dout, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
        mfa_buffer_t out, mfa_buffer_t logsumexp, mfa_buffer_t dq, mfa_buffer_t dk, mfa_buffer_t dv,
        uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
        float softmax_scale, c_bool causal, mfa_precision_t input_precision,
        mfa_precision_t intermediate_precision, mfa_precision_t output_precision, c_bool transpose_q,
        c_bool transpose_k, c_bool transpose_v, c_bool transpose_o)

    ctypedef struct mfa_tensor_t:
        uint32_t struct_size
        int32_t precision
        void *data
        mfa_buffer_t buffer
        uint64_t byte_offset
        int64_t shape[4]
        int64_t stride[4]

    enum:
        MFA_ALIGN_NONE
        MFA_ALIGN_TOP_LEFT
        MFA_ALIGN_BOTTOM_RIGHT

    const uint32_t MFA_APPEND_INTERLEAVED
    const uint32_t MFA_ATTENTION_CAUSAL
    const uint32_t MFA_ATTENTION_LITERAL_SCALE

    ctypedef struct mfa_sequences_t:
        uint32_t struct_size
        uint32_t reserved
        const mfa_tensor_t *query_starts
        const mfa_tensor_t *key_starts
        const mfa_tensor_t *query_lengths
        const mfa_tensor_t *key_lengths
        const mfa_tensor_t *left_padding
        const mfa_tensor_t *key_batches
        int64_t most_queries
        int64_t most_keys

    ctypedef struct mfa_pages_t:
        uint32_t struct_size
        uint32_t reserved
        const mfa_tensor_t *page_table

    ctypedef struct mfa_blocks_t:
        uint32_t struct_size
        uint32_t reserved
        int64_t block_rows
        int64_t block_keys
        const mfa_tensor_t *kv_num_blocks
        const mfa_tensor_t *kv_indices
        const mfa_tensor_t *full_kv_num_blocks
        const mfa_tensor_t *full_kv_indices
        const mfa_tensor_t *block_mask
        const mfa_tensor_t *masks
        const mfa_tensor_t *mask_indices

    ctypedef struct mfa_append_t:
        uint32_t struct_size
        uint32_t flags
        const mfa_tensor_t *key
        const mfa_tensor_t *value
        const mfa_tensor_t *starts
        const mfa_tensor_t *rotary_cos
        const mfa_tensor_t *rotary_sin
        const mfa_tensor_t *rotary_positions

    ctypedef struct mfa_scales_t:
        uint32_t struct_size
        uint32_t reserved
        const mfa_tensor_t *query
        const mfa_tensor_t *key
        const mfa_tensor_t *value

    ctypedef struct mfa_quantization_t:
        uint32_t struct_size
        uint32_t reserved
        int64_t rows
        int64_t columns
        const mfa_tensor_t *scales
        const mfa_tensor_t *zero_points
        const mfa_tensor_t *mean

    enum:
        MFA_COMPUTE_EXACT
        MFA_COMPUTE_INT8

    ctypedef struct mfa_attention_desc_t:
        uint32_t struct_size
        uint32_t flags
        const mfa_tensor_t *query
        const mfa_tensor_t *key
        const mfa_tensor_t *value
        const mfa_tensor_t *out
        const mfa_tensor_t *logsumexp
        const mfa_tensor_t *bool_mask
        const mfa_tensor_t *additive_mask
        const mfa_tensor_t *alibi_slopes
        const mfa_tensor_t *sinks
        float softmax_scale
        float softcap
        int32_t alignment
        int32_t intermediate_precision
        int64_t window_left
        int64_t window_right
        float dropout_p
        uint32_t reserved
        uint64_t dropout_seed
        uint64_t dropout_offset
        const mfa_tensor_t *query_value
        int64_t chunk
        const mfa_sequences_t *sequences
        const mfa_pages_t *pages
        const mfa_blocks_t *blocks
        const mfa_append_t *append
        const mfa_scales_t *scales
        const mfa_quantization_t *key_quantization
        const mfa_quantization_t *value_quantization
        int32_t compute_mode
        uint32_t reserved2

    ctypedef struct mfa_attention_backward_desc_t:
        uint32_t struct_size
        uint32_t flags
        const mfa_attention_desc_t *forward
        const mfa_tensor_t *dout
        const mfa_tensor_t *dquery
        const mfa_tensor_t *dkey
        const mfa_tensor_t *dvalue
        const mfa_tensor_t *dbias
        const mfa_tensor_t *dsinks
        const mfa_tensor_t *delta
        const mfa_tensor_t *dlogsumexp

    const uint32_t MFA_BACKWARD_ZERO_CLIPPED

    ctypedef struct mfa_quantize_desc_t:
        uint32_t struct_size
        uint32_t flags
        const mfa_tensor_t *input
        const mfa_tensor_t *codes
        const mfa_quantization_t *quantization

    const uint32_t MFA_QUANTIZE_STATIC
    const uint32_t MFA_QUANTIZE_SATURATE

    mfa_status_t mfa_quantize(mfa_context_t context, const mfa_quantize_desc_t *desc)

    ctypedef struct mfa_quantization_params_t:
        float scale
        int32_t zero_point
        mfa_precision_t precision

    mfa_status_t mfa_create_quantized_buffer(
        mfa_context_t context, size_t size_bytes, mfa_precision_t precision, float scale, int32_t zero_point,
        mfa_buffer_t *buffer)
    mfa_status_t mfa_quantize_tensor_batch(
        mfa_context_t context, const mfa_buffer_t *inputs_fp32, const mfa_buffer_t *outputs,
        const mfa_quantization_params_t *params, size_t tensor_count)
    mfa_status_t mfa_validate_quantization_params(
        const mfa_quantization_params_t *params, float range_min, float range_max)

    ctypedef struct mfa_shape_t:
        uint32_t rank
        int64_t dims[8]

    size_t mfa_calculate_memory_reduction(
        const mfa_shape_t *shape, mfa_precision_t from_precision, mfa_precision_t to_precision)
    float mfa_estimate_quantization_error(
        mfa_buffer_t original_fp32, mfa_buffer_t quantized, const mfa_quantization_params_t *params)
    mfa_status_t mfa_attention_forward_mixed(
        mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
        uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
        float softmax_scale, c_bool causal, mfa_precision_t query_precision, mfa_precision_t key_precision,
        mfa_precision_t value_precision, mfa_precision_t output_precision, c_bool transpose_q,
        c_bool transpose_k, c_bool transpose_v, c_bool transpose_o)
    mfa_status_t mfa_attention_forward_quantized(
        mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
        mfa_buffer_t logsumexp, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
        uint32_t num_heads, uint16_t head_dim, float softmax_scale, c_bool causal,
        const mfa_quantization_params_t *key_params, const mfa_quantization_params_t *value_params)
    mfa_status_t mfa_attention_backward_query_quantized(
        mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out,
        mfa_buffer_t grad_output, mfa_buffer_t logsumexp, mfa_buffer_t grad_query, mfa_buffer_t d_values,
        uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
        float softmax_scale, c_bool causal, const mfa_quantization_params_t *key_params,
        const mfa_quantization_params_t *value_params)
    mfa_status_t mfa_attention_backward_kv_quantized(
        mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t grad_output,
        mfa_buffer_t logsumexp, mfa_buffer_t d_values, mfa_buffer_t grad_key, mfa_buffer_t grad_value,
        uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim,
        float softmax_scale, c_bool causal, const mfa_quantization_params_t *key_params,
        const mfa_quantization_params_t *value_params)

    ctypedef struct mfa_plan_t:
        uint32_t struct_size
        int32_t status
        int32_t backend
        int32_t fallback
        int32_t tile_queries
        int32_t tile_keys
        int32_t key_splits
        int32_t num_threads
        uint64_t workspace_bytes
        char kernel[64]
        char isa[16]
        char reason[256]

    mfa_status_t mfa_attention_forward_desc(mfa_context_t context, const mfa_attention_desc_t *desc)
    mfa_status_t mfa_attention_forward_plan(
        mfa_context_t context, const mfa_attention_desc_t *desc, mfa_plan_t *plan)
    mfa_status_t mfa_attention_backward_desc(
        mfa_context_t context, const mfa_attention_backward_desc_t *desc)
    mfa_status_t mfa_attention_backward_plan(
        mfa_context_t context, const mfa_attention_backward_desc_t *desc, mfa_plan_t *plan)

    mfa_status_t mfa_attention_forward_encode(
        mfa_context_t context, const mfa_attention_desc_t *desc, void *target)
    mfa_status_t mfa_attention_backward_encode(
        mfa_context_t context, const mfa_attention_backward_desc_t *desc, void *target)

    const char *mfa_error_string(mfa_status_t status)
    const char *mfa_last_error_message(mfa_context_t context)
    c_bool mfa_is_device_supported()
    void mfa_get_version(int *major, int *minor, int *patch)
    double mfa_get_gpu_latency(mfa_context_t context)

# The MFA_..._INIT macros are brace initialisers, which Cython cannot spell; these return them.
cdef extern from *:
    """
    static inline mfa_context_options_t mfa_context_options_init(void)
    {
        mfa_context_options_t initial = MFA_CONTEXT_OPTIONS_INIT;
        return initial;
    }
    static inline mfa_context_info_t mfa_context_info_init(void)
    {
        mfa_context_info_t initial = MFA_CONTEXT_INFO_INIT;
        return initial;
    }
    static inline mfa_tensor_t mfa_tensor_init(void)
    {
        mfa_tensor_t initial = MFA_TENSOR_INIT;
        return initial;
    }
    static inline mfa_attention_desc_t mfa_attention_desc_init(void)
    {
        mfa_attention_desc_t initial = MFA_ATTENTION_DESC_INIT;
        return initial;
    }
    static inline mfa_attention_backward_desc_t mfa_attention_backward_desc_init(void)
    {
        mfa_attention_backward_desc_t initial = MFA_ATTENTION_BACKWARD_DESC_INIT;
        return initial;
    }
    static inline mfa_sequences_t mfa_sequences_init(void)
    {
        mfa_sequences_t initial = MFA_SEQUENCES_INIT;
        return initial;
    }
    static inline mfa_pages_t mfa_pages_init(void)
    {
        mfa_pages_t initial = MFA_PAGES_INIT;
        return initial;
    }
    static inline mfa_blocks_t mfa_blocks_init(void)
    {
        mfa_blocks_t initial = MFA_BLOCKS_INIT;
        return initial;
    }
    static inline mfa_append_t mfa_append_init(void)
    {
        mfa_append_t initial = MFA_APPEND_INIT;
        return initial;
    }
    static inline mfa_scales_t mfa_scales_init(void)
    {
        mfa_scales_t initial = MFA_SCALES_INIT;
        return initial;
    }
    static inline mfa_quantization_t mfa_quantization_init(void)
    {
        mfa_quantization_t initial = MFA_QUANTIZATION_INIT;
        return initial;
    }
    static inline mfa_quantize_desc_t mfa_quantize_desc_init(void)
    {
        mfa_quantize_desc_t initial = MFA_QUANTIZE_DESC_INIT;
        return initial;
    }
    static inline mfa_plan_t mfa_plan_init(void)
    {
        mfa_plan_t initial = MFA_PLAN_INIT;
        return initial;
    }
    """
    mfa_context_options_t mfa_context_options_init() noexcept nogil
    mfa_context_info_t mfa_context_info_init() noexcept nogil
    mfa_tensor_t mfa_tensor_init() noexcept nogil
    mfa_attention_desc_t mfa_attention_desc_init() noexcept nogil
    mfa_attention_backward_desc_t mfa_attention_backward_desc_init() noexcept nogil
    mfa_sequences_t mfa_sequences_init() noexcept nogil
    mfa_pages_t mfa_pages_init() noexcept nogil
    mfa_blocks_t mfa_blocks_init() noexcept nogil
    mfa_append_t mfa_append_init() noexcept nogil
    mfa_scales_t mfa_scales_init() noexcept nogil
    mfa_quantization_t mfa_quantization_init() noexcept nogil
    mfa_quantize_desc_t mfa_quantize_desc_init() noexcept nogil
    mfa_plan_t mfa_plan_init() noexcept nogil

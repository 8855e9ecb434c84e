/* The simple tier of quantised attention: one scale and zero point for a whole tensor. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "core/buffer.h"
#include "core/entry.h"
#include "core/flat.h"
#include "core/format.h"
#include "core/quantize.h"

/* --------------------------------------------------------------- parameters */

/* Codes that a zero point of 8 bits, or 4, says are signed have it among theirs. */
static int32_t format_of(const mfa_quantization_params_t *params) {
    if (params->precision == MFA_PRECISION_INT8)
        return params->zero_point <= mfai_format_highest(MFAI_FORMAT_INT8) ? MFAI_FORMAT_INT8 : MFAI_FORMAT_UINT8;
    return params->zero_point <= mfai_format_highest(MFAI_FORMAT_INT4) ? MFAI_FORMAT_INT4 : MFAI_FORMAT_UINT4;
}

/* `of` is what names of members begin with. */
static mfa_status_t check_params(const char *of, const mfa_quantization_params_t *params) {
    MFAI_REQUIRE(params->precision == MFA_PRECISION_INT8 || params->precision == MFA_PRECISION_INT4,
                 "%sprecision is %d, expected MFA_PRECISION_INT8 or INT4", of, params->precision);
    MFAI_REQUIRE(isfinite(params->scale) && params->scale > 0, "%sscale is %g, expected a positive finite number", of,
                 params->scale);
    const bool is_byte = params->precision == MFA_PRECISION_INT8;
    const int32_t lowest = mfai_format_lowest(params->precision);
    const int32_t highest = mfai_format_highest(is_byte ? MFAI_FORMAT_UINT8 : MFAI_FORMAT_UINT4);
    MFAI_REQUIRE(params->zero_point >= lowest && params->zero_point <= highest,
                 "%szero_point is %d, expected %d to %d for %s", of, params->zero_point, lowest, highest,
                 mfai_formats[params->precision].name);
    return MFA_SUCCESS;
}

static double real_of(const mfa_quantization_params_t *params, int32_t code) {
    return params->scale * (double)(code - params->zero_point);
}

/* The end of a range has a code if rounding it gives one. */
static mfa_status_t check_end(const char *name, const mfa_quantization_params_t *params, float end) {
    const int32_t format = format_of(params);
    const int32_t lowest = mfai_format_lowest(format), highest = mfai_format_highest(format);
    const float code = rintf(end / params->scale) + (float)params->zero_point;
    MFAI_REQUIRE(code >= (float)lowest && code <= (float)highest,
                 "%s is %g, which would be clipped: scale %g and zero_point %d stand for %g to %g", name, end,
                 params->scale, params->zero_point, real_of(params, lowest), real_of(params, highest));
    return MFA_SUCCESS;
}

mfa_status_t mfa_validate_quantization_params(const mfa_quantization_params_t *params, float range_min,
                                              float range_max) {
    MFAI_ENTRY;
    MFAI_REQUIRE(params != NULL, "params is NULL");
    MFAI_TRY(check_params("", params));
    MFAI_REQUIRE(isfinite(range_min), "range_min is %g, expected a finite number", range_min);
    MFAI_REQUIRE(isfinite(range_max), "range_max is %g, expected a finite number", range_max);
    MFAI_REQUIRE(range_min <= range_max, "range_min is %g, expected at most range_max, %g", range_min, range_max);
    MFAI_TRY(check_end("range_min", params, range_min));
    return check_end("range_max", params, range_max);
}

mfa_status_t mfa_create_quantized_buffer(mfa_context_t context, size_t size_bytes, mfa_precision_t precision,
                                         float scale, int32_t zero_point, mfa_buffer_t *buffer) {
    MFAI_ENTRY;
    const mfa_quantization_params_t params = {scale, zero_point, precision};
    MFAI_TRY(check_params("", &params));
    MFAI_TRY(mfa_create_buffer(context, size_bytes, buffer));
    mfai_buffer_set_params(*buffer, &params);
    return MFA_SUCCESS;
}

/* ---------------------------------------------------------------- estimates */

static bool row_bytes(const mfa_shape_t *shape, mfa_precision_t precision, int64_t *bytes) {
    int64_t bits = 0, rows = 1;
    const int64_t columns = shape->dims[shape->rank - 1];
    if (precision < 0 || precision > MFA_PRECISION_UINT4 ||
        __builtin_mul_overflow(columns, (int64_t)mfai_formats[precision].bits, &bits))
        return false;
    *bytes = mfai_format_bytes(precision, columns);
    for (uint32_t i = 0; i + 1 < shape->rank; ++i)
        if (__builtin_mul_overflow(rows, shape->dims[i], &rows))
            return false;
    return !__builtin_mul_overflow(rows, *bytes, &rows);
}

size_t mfa_calculate_memory_reduction(const mfa_shape_t *shape, mfa_precision_t from_precision,
                                      mfa_precision_t to_precision) {
    if (shape == NULL || shape->rank < 1 || shape->rank > 8)
        return 0;
    for (uint32_t i = 0; i < shape->rank; ++i)
        if (shape->dims[i] < 1)
            return 0;
    int64_t before = 0, after = 0;
    if (!row_bytes(shape, from_precision, &before) || !row_bytes(shape, to_precision, &after))
        return 0;
    return (size_t)(before / after);
}

static int32_t code_at(const void *codes, int32_t format, int64_t i) {
    const uint8_t byte = ((const uint8_t *)codes)[mfai_formats[format].bits == 4 ? i / 2 : i];
    const int32_t code = mfai_formats[format].bits == 8 ? byte : i % 2 ? byte >> 4 : byte & 15;
    return code > mfai_format_highest(format) ? code - (1 << mfai_formats[format].bits) : code;
}

/* FP32 elements that the CPU can read, and room for as many codes. */
static mfa_status_t check_sizes(const char *name, mfa_buffer_t input, const char *codes_name, mfa_buffer_t codes,
                                int32_t format, int64_t *count) {
    MFAI_REQUIRE(input != NULL, "%s is NULL", name);
    MFAI_REQUIRE(codes != NULL, "%s is NULL", codes_name);
    const size_t size = mfa_buffer_size(input), room = mfa_buffer_size(codes);
    MFAI_REQUIRE(size % sizeof(float) == 0, "%s has %zu bytes, expected a multiple of 4, FP32 elements", name, size);
    *count = (int64_t)(size / sizeof(float));
    const int64_t needed = mfai_format_bytes(format, *count);
    MFAI_REQUIRE((int64_t)room >= needed,
                 "%s has %zu bytes, expected at least %" PRId64 " for the %" PRId64 " elements of %s", codes_name, room,
                 needed, *count, name);
    const mfa_buffer_t buffers[] = {input, codes};
    for (int i = 0; i < 2; ++i)
        if (mfa_buffer_contents(buffers[i]) == NULL)
            return mfai_fail(MFA_ERROR_UNSUPPORTED,
                             "%s is a Metal buffer in private storage, which the CPU cannot reach",
                             i == 0 ? name : codes_name);
    MFAI_REQUIRE((uintptr_t)mfa_buffer_contents(input) % sizeof(float) == 0,
                 "%s is at address %p, not aligned to its 4-byte elements", name, mfa_buffer_contents(input));
    return MFA_SUCCESS;
}

static mfa_status_t check_estimate(mfa_buffer_t original, mfa_buffer_t quantized,
                                   const mfa_quantization_params_t *params, int64_t *count) {
    MFAI_REQUIRE(params != NULL, "params is NULL");
    MFAI_TRY(check_params("params.", params));
    return check_sizes("original_fp32", original, "quantized", quantized, format_of(params), count);
}

float mfa_estimate_quantization_error(mfa_buffer_t original_fp32, mfa_buffer_t quantized,
                                      const mfa_quantization_params_t *params) {
    MFAI_ENTRY;
    int64_t count = 0;
    if (check_estimate(original_fp32, quantized, params, &count) != MFA_SUCCESS)
        return NAN;
    const float *const elements = mfa_buffer_contents(original_fp32);
    const void *const codes = mfa_buffer_contents(quantized);
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
        const double error = elements[i] - real_of(params, code_at(codes, format_of(params), i));
        sum += error * error;
    }
    return count > 0 ? (float)sqrt(sum / (double)count) : 0;
}

/* ---------------------------------------------------------------- quantising */

/* Room for what the descriptor tier wants of one scale and zero point. */
typedef struct {
    float scale;
    int32_t zero_point;
    mfa_tensor_t scales, zero_points;
    mfa_quantization_t quantization;
} codes_t;

static mfa_tensor_t single(mfa_precision_t precision, void *data) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.precision = precision;
    tensor.data = data;
    for (int axis = 0; axis < 4; ++axis)
        tensor.shape[axis] = 1;
    return tensor;
}

static const mfa_quantization_t *describe_codes(const mfa_quantization_params_t *params, codes_t *codes) {
    codes->scale = params->scale;
    codes->zero_point = params->zero_point;
    codes->scales = single(MFA_PRECISION_FP32, &codes->scale);
    codes->zero_points = single(MFA_PRECISION_INT32, &codes->zero_point);
    codes->quantization = (mfa_quantization_t)MFA_QUANTIZATION_INIT;
    codes->quantization.scales = &codes->scales;
    codes->quantization.zero_points = &codes->zero_points;
    return &codes->quantization;
}

/* Elements are quantised as rows, of which a kernel has a few at a time, and what is left of them. */
enum { ROW = 1024 };

static mfa_tensor_t rows_of(mfa_buffer_t buffer, mfa_precision_t precision, int64_t first, int64_t rows,
                            int64_t columns) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.precision = precision;
    tensor.buffer = buffer;
    tensor.byte_offset = (uint64_t)mfai_format_bytes(precision, first);
    const int64_t shape[4] = {1, 1, rows, columns}, stride[4] = {0, 0, ROW, 1};
    for (int axis = 0; axis < 4; ++axis) {
        tensor.shape[axis] = shape[axis];
        tensor.stride[axis] = stride[axis];
    }
    return tensor;
}

static mfa_status_t quantise_rows(mfa_context_t context, mfa_buffer_t input, mfa_buffer_t output,
                                  const mfa_quantization_params_t *params, int64_t first, int64_t rows, int64_t columns,
                                  bool checks_only) {
    codes_t codes;
    const mfa_tensor_t elements = rows_of(input, MFA_PRECISION_FP32, first, rows, columns),
                       written = rows_of(output, format_of(params), first, rows, columns);
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    desc.flags = MFA_QUANTIZE_STATIC | MFA_QUANTIZE_SATURATE; /* there is nothing to saturate */
    desc.input = &elements;
    desc.codes = &written;
    desc.quantization = describe_codes(params, &codes);
    mfai_quantize_t call;
    MFAI_TRY(mfai_quantize_import(context, &desc, &call));
    call.checks_only = checks_only;
    return mfai_quantize_run(context, &call);
}

static mfa_status_t quantise(mfa_context_t context, mfa_buffer_t input, mfa_buffer_t output,
                             const mfa_quantization_params_t *params, bool checks_only) {
    const int64_t count = (int64_t)(mfa_buffer_size(input) / sizeof(float)), rest = count % ROW;
    MFAI_TRY(quantise_rows(context, input, output, params, 0, count / ROW, ROW, checks_only));
    return quantise_rows(context, input, output, params, count - rest, 1, rest, checks_only);
}

static mfa_status_t check_elements(const char *name, const float *elements, int64_t count) {
    bool wrong = false;
    for (int64_t i = 0; i < count; ++i)
        wrong |= !isfinite(elements[i]);
    int64_t i = 0;
    while (wrong && isfinite(elements[i]))
        ++i;
    MFAI_REQUIRE(!wrong, "%s has %g as element %" PRId64 ", expected a finite number", name, elements[i], i);
    return MFA_SUCCESS;
}

static bool share_memory(mfa_buffer_t one, size_t one_size, mfa_buffer_t other, size_t other_size) {
    const uintptr_t a = (uintptr_t)mfa_buffer_contents(one), b = (uintptr_t)mfa_buffer_contents(other);
    return one_size > 0 && other_size > 0 && a < b + other_size && b < a + one_size;
}

/* Names of the members of one tensor's arrays. */
typedef struct {
    char input[48], output[48], params[48];
} names_t;

static names_t name_tensor(size_t i) {
    names_t names;
    snprintf(names.input, sizeof names.input, "inputs_fp32[%zu]", i);
    snprintf(names.output, sizeof names.output, "outputs[%zu]", i);
    snprintf(names.params, sizeof names.params, "params[%zu].", i);
    return names;
}

static mfa_status_t check_context(const char *name, mfa_buffer_t buffer, mfa_context_t context) {
    MFAI_REQUIRE(mfai_buffer_context(buffer) == context, "%s belongs to another context", name);
    return MFA_SUCCESS;
}

static size_t written_bytes(mfa_buffer_t input, const mfa_quantization_params_t *params) {
    return (size_t)mfai_format_bytes(format_of(params), (int64_t)(mfa_buffer_size(input) / sizeof(float)));
}

mfa_status_t mfa_quantize_tensor_batch(mfa_context_t context, const mfa_buffer_t *inputs_fp32,
                                       const mfa_buffer_t *outputs, const mfa_quantization_params_t *params,
                                       size_t tensor_count) {
    MFAI_ENTRY;
    MFAI_REQUIRE(context != NULL, "context is NULL");
    MFAI_REQUIRE(inputs_fp32 != NULL || tensor_count == 0, "inputs_fp32 is NULL");
    MFAI_REQUIRE(outputs != NULL || tensor_count == 0, "outputs is NULL");
    MFAI_REQUIRE(params != NULL || tensor_count == 0, "params is NULL");
    for (size_t i = 0; i < tensor_count; ++i) {
        const names_t names = name_tensor(i);
        int64_t count = 0;
        MFAI_TRY(check_params(names.params, &params[i]));
        MFAI_TRY(check_sizes(names.input, inputs_fp32[i], names.output, outputs[i], format_of(&params[i]), &count));
        MFAI_TRY(check_context(names.input, inputs_fp32[i], context));
        MFAI_TRY(check_context(names.output, outputs[i], context));
        MFAI_TRY(check_elements(names.input, mfa_buffer_contents(inputs_fp32[i]), count));
    }
    for (size_t i = 0; i < tensor_count; ++i)
        for (size_t j = 0; j < tensor_count; ++j) {
            const size_t bytes = written_bytes(inputs_fp32[i], &params[i]),
                         others = written_bytes(inputs_fp32[j], &params[j]);
            MFAI_REQUIRE(!share_memory(outputs[i], bytes, inputs_fp32[j], mfa_buffer_size(inputs_fp32[j])),
                         "outputs[%zu] overlaps inputs_fp32[%zu] in memory, expected memory of its own", i, j);
            MFAI_REQUIRE(j <= i || !share_memory(outputs[i], bytes, outputs[j], others),
                         "outputs[%zu] overlaps outputs[%zu] in memory, expected memory of its own", i, j);
        }
    for (size_t i = 0; i < tensor_count; ++i)
        MFAI_TRY(quantise(context, inputs_fp32[i], outputs[i], &params[i], true));
    for (size_t i = 0; i < tensor_count; ++i)
        MFAI_TRY(quantise(context, inputs_fp32[i], outputs[i], &params[i], false));
    for (size_t i = 0; i < tensor_count; ++i)
        if (mfai_buffer_params(outputs[i]) != NULL)
            mfai_buffer_set_params(outputs[i], &params[i]);
    return MFA_SUCCESS;
}

/* ----------------------------------------------------------------- attention */

/* A zero point of 0 is none. */
static const mfa_quantization_t *describe_operand(const mfa_quantization_params_t *params, codes_t *codes) {
    describe_codes(params, codes);
    if (params->zero_point == 0)
        codes->quantization.zero_points = NULL;
    return &codes->quantization;
}

/* What a key or value of a mixed call stands for; its precision becomes that of its codes. */
static mfa_status_t find_params(const char *name, mfa_buffer_t buffer, bool is_transposed, mfa_precision_t *precision,
                                const mfa_quantization_params_t **params) {
    *params = NULL;
    if (*precision != MFA_PRECISION_INT8 && *precision != MFA_PRECISION_INT4) {
        MFAI_REQUIRE(*precision >= MFA_PRECISION_FP16 && *precision <= MFA_PRECISION_FP32,
                     "precision of %s is %d, expected FP16, BF16, FP32, INT8 or INT4", name, *precision);
        return MFA_SUCCESS;
    }
    MFAI_REQUIRE(buffer != NULL, "%s is NULL", name);
    MFAI_REQUIRE(!is_transposed, "%s is transposed, but has codes, whose layout is [batch, seq, heads, head_dim]",
                 name);
    *params = mfai_buffer_params(buffer);
    MFAI_REQUIRE(*params != NULL,
                 "%s has codes, but is no buffer of mfa_create_quantized_buffer, which knows what they stand for",
                 name);
    MFAI_REQUIRE((*params)->precision == *precision, "precision of %s is %s, but its buffer has %s", name,
                 mfai_formats[*precision].name, mfai_formats[(*params)->precision].name);
    *precision = format_of(*params);
    return MFA_SUCCESS;
}

mfa_status_t mfa_attention_forward_mixed(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                         mfa_buffer_t out, uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
                                         uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
                                         mfa_precision_t query_precision, mfa_precision_t key_precision,
                                         mfa_precision_t value_precision, mfa_precision_t output_precision,
                                         bool transpose_q, bool transpose_k, bool transpose_v, bool transpose_o) {
    MFAI_ENTRY;
    const mfa_quantization_params_t *key_params, *value_params;
    MFAI_TRY(find_params("k", k, transpose_k, &key_precision, &key_params));
    MFAI_TRY(find_params("v", v, transpose_v, &value_precision, &value_params));
    const mfai_flat_call_t a = {batch_size,
                                seq_len_q,
                                seq_len_kv,
                                num_heads,
                                head_dim,
                                softmax_scale,
                                causal,
                                query_precision,
                                key_precision,
                                value_precision,
                                MFA_PRECISION_DEFAULT,
                                output_precision,
                                transpose_q,
                                transpose_k,
                                transpose_v,
                                transpose_o};
    mfa_tensor_t tensors[MFAI_FLAT_TENSORS];
    mfa_attention_desc_t desc;
    MFAI_TRY(mfai_flat_describe_forward(context, &a, q, k, v, tensors, &desc));
    MFAI_TRY(mfai_flat_describe_out(&a, out, tensors, &desc));
    codes_t keys, values;
    desc.key_quantization = key_params != NULL ? describe_operand(key_params, &keys) : NULL;
    desc.value_quantization = value_params != NULL ? describe_operand(value_params, &values) : NULL;
    return mfa_attention_forward_desc(context, &desc);
}

/* A call of the quantised functions, and what its descriptor points to. */
typedef struct {
    mfai_flat_call_t call;
    mfa_tensor_t tensors[MFAI_FLAT_TENSORS], logsumexp;
    codes_t keys, values;
    mfa_attention_desc_t desc;
} quantized_t;

/* All but `out` and `logsumexp`. */
static mfa_status_t describe(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                             const mfa_quantization_params_t *key_params, const mfa_quantization_params_t *value_params,
                             quantized_t *quantized) {
    MFAI_REQUIRE(key_params != NULL, "key_params is NULL");
    MFAI_REQUIRE(value_params != NULL, "value_params is NULL");
    MFAI_TRY(check_params("key_params.", key_params));
    MFAI_TRY(check_params("value_params.", value_params));
    mfai_flat_call_t *call = &quantized->call;
    call->query_precision = MFA_PRECISION_FP16;
    call->key_precision = format_of(key_params);
    call->value_precision = format_of(value_params);
    call->intermediate_precision = MFA_PRECISION_DEFAULT;
    call->output_precision = MFA_PRECISION_FP32;
    MFAI_TRY(mfai_flat_describe_forward(context, call, q, k, v, quantized->tensors, &quantized->desc));
    quantized->desc.key_quantization = describe_operand(key_params, &quantized->keys);
    quantized->desc.value_quantization = describe_operand(value_params, &quantized->values);
    return MFA_SUCCESS;
}

static mfa_status_t describe_logsumexp(mfa_buffer_t logsumexp, quantized_t *quantized) {
    quantized->desc.logsumexp = &quantized->logsumexp;
    return mfai_flat_describe_rows("logsumexp", &quantized->call, logsumexp, &quantized->logsumexp);
}

#define SIZES                        \
    {.batch_size = batch_size,       \
     .seq_len_q = seq_len_q,         \
     .seq_len_kv = seq_len_kv,       \
     .num_heads = num_heads,         \
     .head_dim = head_dim,           \
     .softmax_scale = softmax_scale, \
     .causal = causal}

mfa_status_t mfa_attention_forward_quantized(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                             mfa_buffer_t out, mfa_buffer_t logsumexp, uint32_t batch_size,
                                             uint32_t seq_len_q, uint32_t seq_len_kv, uint32_t num_heads,
                                             uint16_t head_dim, float softmax_scale, bool causal,
                                             const mfa_quantization_params_t *key_params,
                                             const mfa_quantization_params_t *value_params) {
    MFAI_ENTRY;
    quantized_t quantized = {.call = SIZES};
    MFAI_TRY(describe(context, q, k, v, key_params, value_params, &quantized));
    MFAI_TRY(mfai_flat_describe_out(&quantized.call, out, quantized.tensors, &quantized.desc));
    if (logsumexp != NULL)
        MFAI_TRY(describe_logsumexp(logsumexp, &quantized));
    return mfa_attention_forward_desc(context, &quantized.desc);
}

mfa_status_t mfa_attention_backward_query_quantized(
    mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v, mfa_buffer_t out, mfa_buffer_t grad_output,
    mfa_buffer_t logsumexp, mfa_buffer_t grad_query, mfa_buffer_t d_values, uint32_t batch_size, uint32_t seq_len_q,
    uint32_t seq_len_kv, uint32_t num_heads, uint16_t head_dim, float softmax_scale, bool causal,
    const mfa_quantization_params_t *key_params, const mfa_quantization_params_t *value_params) {
    MFAI_ENTRY;
    quantized_t quantized = {.call = SIZES};
    mfa_tensor_t dout, dquery, delta;
    MFAI_TRY(describe(context, q, k, v, key_params, value_params, &quantized));
    MFAI_TRY(mfai_flat_describe_out(&quantized.call, out, quantized.tensors, &quantized.desc));
    MFAI_TRY(describe_logsumexp(logsumexp, &quantized));
    const mfai_flat_operand_t query = mfai_flat_queries(&quantized.call, MFA_PRECISION_FP32);
    MFAI_TRY(mfai_flat_describe("grad_output", grad_output, &query, false, &dout));
    MFAI_TRY(mfai_flat_describe("grad_query", grad_query, &query, false, &dquery));
    MFAI_TRY(mfai_flat_describe_rows("d_values", &quantized.call, d_values, &delta));
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    desc.forward = &quantized.desc;
    desc.dout = &dout;
    desc.dquery = &dquery;
    desc.delta = &delta;
    return mfa_attention_backward_desc(context, &desc);
}

mfa_status_t mfa_attention_backward_kv_quantized(mfa_context_t context, mfa_buffer_t q, mfa_buffer_t k, mfa_buffer_t v,
                                                 mfa_buffer_t grad_output, mfa_buffer_t logsumexp,
                                                 mfa_buffer_t d_values, mfa_buffer_t grad_key, mfa_buffer_t grad_value,
                                                 uint32_t batch_size, uint32_t seq_len_q, uint32_t seq_len_kv,
                                                 uint32_t num_heads, uint16_t head_dim, float softmax_scale,
                                                 bool causal, const mfa_quantization_params_t *key_params,
                                                 const mfa_quantization_params_t *value_params) {
    MFAI_ENTRY;
    quantized_t quantized = {.call = SIZES};
    mfa_tensor_t dout, delta, dkey, dvalue;
    MFAI_TRY(describe(context, q, k, v, key_params, value_params, &quantized));
    MFAI_TRY(describe_logsumexp(logsumexp, &quantized));
    const mfai_flat_operand_t query = mfai_flat_queries(&quantized.call, MFA_PRECISION_FP32),
                              key = mfai_flat_keys(&quantized.call, MFA_PRECISION_FP32);
    MFAI_TRY(mfai_flat_describe("grad_output", grad_output, &query, false, &dout));
    MFAI_TRY(mfai_flat_describe_rows("d_values", &quantized.call, d_values, &delta));
    MFAI_TRY(mfai_flat_describe("grad_key", grad_key, &key, false, &dkey));
    MFAI_TRY(mfai_flat_describe("grad_value", grad_value, &key, false, &dvalue));
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    desc.forward = &quantized.desc;
    desc.dout = &dout;
    desc.delta = &delta;
    desc.dkey = &dkey;
    desc.dvalue = &dvalue;
    return mfa_attention_backward_desc(context, &desc);
}

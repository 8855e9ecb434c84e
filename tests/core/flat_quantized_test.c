/* The simple tier of quantised attention against the definition, for every instance of the kernels this machine has. */
#include "check.h"
#include "core/format.h"
#include "naive_gradients.h"

enum { B = 2, H = 3, D = 19 }; /* an odd number of columns: rows of 4 bits are padded */

static const mfa_quantization_params_t several[] = {
    {0.01f, 0, MFA_PRECISION_INT8},    {0.007f, -128, MFA_PRECISION_INT8}, {0.01f, 127, MFA_PRECISION_INT8},
    {0.008f, 128, MFA_PRECISION_INT8}, {0.02f, 255, MFA_PRECISION_INT8},   {0.15f, 0, MFA_PRECISION_INT4},
    {0.12f, -8, MFA_PRECISION_INT4},   {0.13f, 7, MFA_PRECISION_INT4},     {0.14f, 8, MFA_PRECISION_INT4},
    {0.1f, 15, MFA_PRECISION_INT4}};
enum { SEVERAL = sizeof several / sizeof *several };

static bool is_unsigned(const mfa_quantization_params_t *params) {
    return params->zero_point > (params->precision == MFA_PRECISION_INT8 ? 127 : 7);
}

/* What code `i` of bytes is, by the rule that mfa.h states. */
static int code_at(const unsigned char *codes, const mfa_quantization_params_t *params, int64_t i) {
    if (params->precision == MFA_PRECISION_INT8)
        return is_unsigned(params) ? codes[i] : (int8_t)codes[i];
    const int nibble = codes[i / 2] >> i % 2 * 4 & 15;
    return is_unsigned(params) || nibble < 8 ? nibble : nibble - 16;
}

static float real_at(const unsigned char *codes, const mfa_quantization_params_t *params, int64_t i) {
    return params->scale * (float)(code_at(codes, params, i) - params->zero_point);
}

static int expected_code(float x, const mfa_quantization_params_t *params) {
    const int levels = params->precision == MFA_PRECISION_INT8 ? 256 : 16;
    const int lowest = is_unsigned(params) ? 0 : -levels / 2;
    const double code = rint((double)(x / params->scale)) + params->zero_point;
    return code < lowest ? lowest : code > lowest + levels - 1 ? lowest + levels - 1 : (int)code;
}

static int64_t bytes_of(const mfa_quantization_params_t *params, int64_t count) {
    return params->precision == MFA_PRECISION_INT8 ? count : (count + 1) / 2;
}

static mfa_buffer_t buffer_of(mfa_context_t context, int64_t bytes) {
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_buffer(context, (size_t)bytes, &buffer) == MFA_SUCCESS);
    return buffer;
}

static mfa_buffer_t remembering(mfa_context_t context, int64_t bytes, const mfa_quantization_params_t *params) {
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_quantized_buffer(context, (size_t)bytes, params->precision, params->scale, params->zero_point,
                                      &buffer) == MFA_SUCCESS);
    CHECK(mfa_buffer_size(buffer) == (size_t)bytes);
    return buffer;
}

static void destroy(mfa_buffer_t *buffers, int count) {
    for (int i = 0; i < count; ++i)
        mfa_destroy_buffer(buffers[i]);
}

/* ------------------------------------------------------------------ parameters */

static void test_params(void) {
    mfa_quantization_params_t p = {0.1f, 0, MFA_PRECISION_INT8};
    CHECK(mfa_validate_quantization_params(&p, -12.8f, 12.7f) == MFA_SUCCESS);
    CHECK(mfa_validate_quantization_params(&p, 3, 3) == MFA_SUCCESS);
#define REFUSED(low, high, fragment) \
    CHECK_FAILS(mfa_validate_quantization_params(&p, low, high), MFA_ERROR_INVALID_ARGS, fragment)
    REFUSED(-12.9f, 1,
            "range_min is -12.9, which would be clipped: scale 0.1 and zero_point 0 stand for -12.8 to 12.7");
    REFUSED(0, 12.8f, "range_max is 12.8, which would be clipped");
    REFUSED(13, 14, "range_min is 13, which would be clipped");
    REFUSED(0, 3e38f, "range_max is 3e+38, which would be clipped");
    REFUSED(2, 1, "range_min is 2, expected at most range_max, 1");
    REFUSED(NAN, 1, "range_min is nan, expected a finite number");
    REFUSED(0, INFINITY, "range_max is inf, expected a finite number");
    p.zero_point = 128;
    CHECK(mfa_validate_quantization_params(&p, -12.8f, 12.7f) == MFA_SUCCESS);
    p.zero_point = 255;
    CHECK(mfa_validate_quantization_params(&p, -25.5f, 0) == MFA_SUCCESS);
    REFUSED(-25.5f, 0.1f,
            "range_max is 0.1, which would be clipped: scale 0.1 and zero_point 255 stand for -25.5 to 0");
    p.zero_point = 256;
    REFUSED(0, 1, "zero_point is 256, expected -128 to 255 for INT8");
    p.zero_point = -129;
    REFUSED(0, 1, "zero_point is -129, expected -128 to 255 for INT8");
    p = (mfa_quantization_params_t){0.1f, 16, MFA_PRECISION_INT4};
    REFUSED(0, 1, "zero_point is 16, expected -8 to 15 for INT4");
    p.zero_point = -9;
    REFUSED(0, 1, "zero_point is -9, expected -8 to 15 for INT4");
    p.zero_point = 8;
    CHECK(mfa_validate_quantization_params(&p, -0.8f, 0.7f) == MFA_SUCCESS);
    REFUSED(-0.9f, 0, "range_min is -0.9, which would be clipped");
    static const float scales[] = {0, -1, INFINITY, -INFINITY, NAN};
    static const char *const found[] = {"scale is 0,", "scale is -1,", "scale is inf,", "scale is -inf,",
                                        "scale is nan,"};
    for (int i = 0; i < 5; ++i) {
        p.scale = scales[i];
        REFUSED(0, 0, found[i]);
    }
    p = (mfa_quantization_params_t){1, 0, MFA_PRECISION_FP16};
    REFUSED(0, 0, "precision is 0, expected MFA_PRECISION_INT8 or INT4");
    p.precision = MFA_PRECISION_UINT8;
    REFUSED(0, 0, "precision is 7, expected MFA_PRECISION_INT8 or INT4");
#undef REFUSED
    CHECK_FAILS(mfa_validate_quantization_params(NULL, 0, 1), MFA_ERROR_INVALID_ARGS, "params is NULL");
}

static void test_create(mfa_context_t context) {
    mfa_buffer_t buffer = NULL;
#define CREATE(context, precision, scale, zero_point, to) \
    mfa_create_quantized_buffer(context, 64, precision, scale, zero_point, to)
    CHECK_FAILS(CREATE(NULL, MFA_PRECISION_INT8, 1, 0, &buffer), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK_FAILS(CREATE(context, MFA_PRECISION_INT8, 1, 0, NULL), MFA_ERROR_INVALID_ARGS, "buffer is NULL");
    CHECK_FAILS(CREATE(context, MFA_PRECISION_FP32, 1, 0, &buffer), MFA_ERROR_INVALID_ARGS, "precision is 2");
    CHECK_FAILS(CREATE(context, MFA_PRECISION_INT8, 0, 0, &buffer), MFA_ERROR_INVALID_ARGS, "scale is 0");
    CHECK_FAILS(CREATE(context, MFA_PRECISION_INT4, 1, 16, &buffer), MFA_ERROR_INVALID_ARGS, "zero_point is 16");
    CHECK_FAILS(mfa_create_quantized_buffer(context, SIZE_MAX, MFA_PRECISION_INT8, 1, 0, &buffer),
                MFA_ERROR_INVALID_ARGS, "size_bytes is");
    CHECK(buffer == NULL);
    CHECK(CREATE(context, MFA_PRECISION_INT4, 1, 15, &buffer) == MFA_SUCCESS);
#undef CREATE
    const unsigned char *const contents = mfa_buffer_contents(buffer);
    int sum = 0;
    for (int i = 0; i < 64; ++i)
        sum |= contents[i];
    CHECK(sum == 0);
    mfa_destroy_buffer(buffer);
}

static void test_memory_reduction(void) {
    mfa_shape_t shape = {4, {2, 1024, 8, 64}};
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 4);
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT4) == 8);
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_BF16, MFA_PRECISION_UINT4) == 4);
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_INT4, MFA_PRECISION_FP32) == 0);
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_FP32) == 1);
    shape = (mfa_shape_t){1, {7}}; /* 28 bytes, and 4 */
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT4) == 7);
    shape = (mfa_shape_t){2, {5, 1}};
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP16, MFA_PRECISION_INT4) == 2);
    shape = (mfa_shape_t){8, {1, 1, 1, 1, 1, 1, 1, 64}};
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 4);
    /* What cannot be. */
    CHECK(mfa_calculate_memory_reduction(NULL, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 0);
    CHECK(mfa_calculate_memory_reduction(&shape, 9, MFA_PRECISION_INT8) == 0);
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, -1) == 0);
    shape.dims[3] = 0;
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 0);
    shape.dims[3] = -4;
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 0);
    shape.rank = 0;
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 0);
    shape.rank = 9;
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 0);
    shape = (mfa_shape_t){2, {INT64_MAX / 2, 4}};
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 0);
    shape = (mfa_shape_t){1, {INT64_MAX / 8}};
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 0);
    shape = (mfa_shape_t){3, {INT64_MAX / 2, 4, 4}};
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_INT8, MFA_PRECISION_INT8) == 0);
}

/* ------------------------------------------------------------------ quantising */

static void test_batch(mfa_context_t context) {
    static const int64_t counts[SEVERAL] = {1, 1023, 1024, 1025, 0, 5000, 2048, 3, 4097, 100001};
    mfa_buffer_t inputs[SEVERAL], outputs[SEVERAL];
    for (int i = 0; i < SEVERAL; ++i) {
        inputs[i] = buffer_of(context, counts[i] * 4);
        float *to = mfa_buffer_contents(inputs[i]);
        for (int64_t at = 0; at < counts[i]; ++at)
            to[at] = 3 * random_float();
        outputs[i] = buffer_of(context, bytes_of(&several[i], counts[i]) + 1);
        memset(mfa_buffer_contents(outputs[i]), 0x5a, mfa_buffer_size(outputs[i]));
    }
    CHECK(mfa_quantize_tensor_batch(context, inputs, outputs, several, SEVERAL) == MFA_SUCCESS);
    for (int i = 0; i < SEVERAL; ++i) {
        const float *from = mfa_buffer_contents(inputs[i]);
        const unsigned char *codes = mfa_buffer_contents(outputs[i]);
        int64_t wrong = 0;
        double sum = 0;
        for (int64_t at = 0; at < counts[i]; ++at) {
            wrong += code_at(codes, &several[i], at) != expected_code(from[at], &several[i]);
            const double code = code_at(codes, &several[i], at) - several[i].zero_point;
            const double error = from[at] - several[i].scale * code;
            sum += error * error;
        }
        CHECK(wrong == 0);
        CHECK(codes[bytes_of(&several[i], counts[i])] == 0x5a);
        const double expected = counts[i] > 0 ? sqrt(sum / (double)counts[i]) : 0;
        CHECK(fabs(mfa_estimate_quantization_error(inputs[i], outputs[i], &several[i]) - expected) <= 1e-6 * expected);
    }
    CHECK(mfa_quantize_tensor_batch(context, NULL, NULL, NULL, 0) == MFA_SUCCESS);
    destroy(inputs, SEVERAL), destroy(outputs, SEVERAL);
}

enum { SAME = 33 };

static void test_batch_errors(mfa_context_t context, mfa_context_t other) {
    enum { COUNT = 3 };
    mfa_buffer_t inputs[COUNT], outputs[COUNT], foreign = buffer_of(other, SAME * 4), odd = buffer_of(context, 7);
    mfa_buffer_t askew = NULL, inside = NULL, inside_input = NULL;
    mfa_quantization_params_t params[COUNT];
    for (int i = 0; i < COUNT; ++i) {
        inputs[i] = buffer_of(context, SAME * 4);
        outputs[i] = buffer_of(context, SAME);
        params[i] = several[0];
        memset(mfa_buffer_contents(outputs[i]), 0x5a, SAME);
    }
    float *const last = mfa_buffer_contents(inputs[COUNT - 1]);
    CHECK(mfa_buffer_from_ptr(context, (char *)mfa_buffer_contents(inputs[0]) + 1, 8, &askew) == MFA_SUCCESS);
    CHECK(mfa_buffer_from_ptr(context, (char *)mfa_buffer_contents(outputs[0]) + SAME - 1, SAME, &inside) ==
          MFA_SUCCESS);
    CHECK(mfa_buffer_from_ptr(context, mfa_buffer_contents(inputs[1]), SAME, &inside_input) == MFA_SUCCESS);
#define REFUSED(change, fragment)                                                                               \
    do {                                                                                                        \
        mfa_buffer_t kept_inputs[COUNT], kept_outputs[COUNT];                                                   \
        mfa_quantization_params_t kept_params[COUNT];                                                           \
        memcpy(kept_inputs, inputs, sizeof inputs), memcpy(kept_outputs, outputs, sizeof outputs);              \
        memcpy(kept_params, params, sizeof params);                                                             \
        change;                                                                                                 \
        CHECK_FAILS(mfa_quantize_tensor_batch(context, inputs, outputs, params, COUNT), MFA_ERROR_INVALID_ARGS, \
                    fragment);                                                                                  \
        memcpy(inputs, kept_inputs, sizeof inputs), memcpy(outputs, kept_outputs, sizeof outputs);              \
        memcpy(params, kept_params, sizeof params);                                                             \
    } while (0)
    REFUSED(inputs[2] = NULL, "inputs_fp32[2] is NULL");
    REFUSED(outputs[1] = NULL, "outputs[1] is NULL");
    REFUSED(params[2].scale = 0, "params[2].scale is 0, expected a positive finite number");
    REFUSED(params[1].zero_point = 300, "params[1].zero_point is 300, expected -128 to 255 for INT8");
    REFUSED(params[2].precision = MFA_PRECISION_FP32, "params[2].precision is 2");
    REFUSED(inputs[2] = odd, "inputs_fp32[2] has 7 bytes, expected a multiple of 4");
    REFUSED(outputs[2] = odd, "outputs[2] has 7 bytes, expected at least 33 for the 33 elements of inputs_fp32[2]");
    REFUSED(inputs[1] = askew, "inputs_fp32[1] is at address");
    REFUSED(inputs[2] = foreign, "inputs_fp32[2] belongs to another context");
    REFUSED(outputs[2] = foreign, "outputs[2] belongs to another context");
    REFUSED(outputs[2] = outputs[1], "outputs[1] overlaps outputs[2] in memory");
    REFUSED(outputs[2] = inputs[2], "outputs[2] overlaps inputs_fp32[2] in memory");
    REFUSED(outputs[0] = inside_input, "outputs[0] overlaps inputs_fp32[1] in memory");
    REFUSED(outputs[2] = inside, "outputs[0] overlaps outputs[2] in memory");
    static const float specials[] = {NAN, INFINITY, -INFINITY};
    static const char *const found[] = {"inputs_fp32[2] has nan as element 32, expected a finite number",
                                        "inputs_fp32[2] has inf as element 32",
                                        "inputs_fp32[2] has -inf as element 32"};
    for (int i = 0; i < 3; ++i) {
        last[SAME - 1] = specials[i];
        REFUSED((void)0, found[i]);
    }
    last[SAME - 1] = 0;
#undef REFUSED
    CHECK_FAILS(mfa_quantize_tensor_batch(NULL, inputs, outputs, params, 1), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK_FAILS(mfa_quantize_tensor_batch(context, NULL, outputs, params, 1), MFA_ERROR_INVALID_ARGS,
                "inputs_fp32 is NULL");
    CHECK_FAILS(mfa_quantize_tensor_batch(context, inputs, NULL, params, 1), MFA_ERROR_INVALID_ARGS, "outputs is NULL");
    CHECK_FAILS(mfa_quantize_tensor_batch(context, inputs, outputs, NULL, 1), MFA_ERROR_INVALID_ARGS, "params is NULL");
    int touched = 0;
    for (int i = 0; i < COUNT; ++i)
        for (int at = 0; at < SAME; ++at)
            touched |= ((char *)mfa_buffer_contents(outputs[i]))[at] != 0x5a;
    CHECK(!touched);
    destroy(inputs, COUNT), destroy(outputs, COUNT);
    destroy((mfa_buffer_t[]){foreign, odd, askew, inside, inside_input}, 5);
}

static void test_estimate_errors(mfa_context_t context) {
    mfa_buffer_t original = buffer_of(context, 400), codes = buffer_of(context, 99), odd = buffer_of(context, 7);
    const mfa_quantization_params_t params = several[0], wrong = {0, 0, MFA_PRECISION_INT8};
#define REFUSED(original, codes, params, fragment)                                                            \
    CHECK_FAILS(isnan(mfa_estimate_quantization_error(original, codes, params)) ? MFA_ERROR_INVALID_ARGS : 0, \
                MFA_ERROR_INVALID_ARGS, fragment)
    REFUSED(NULL, codes, &params, "original_fp32 is NULL");
    REFUSED(original, NULL, &params, "quantized is NULL");
    REFUSED(original, codes, NULL, "params is NULL");
    REFUSED(original, codes, &wrong, "params.scale is 0");
    REFUSED(odd, codes, &params, "original_fp32 has 7 bytes, expected a multiple of 4");
    REFUSED(original, codes, &params, "quantized has 99 bytes, expected at least 100");
#undef REFUSED
    destroy((mfa_buffer_t[]){original, codes, odd}, 3);
}

/* ------------------------------------------------------------------- attention */

/* Codes of random numbers in the flat layout, rows padded, and what they stand for, packed (batch * heads, seq, D). */
static float *random_codes(int64_t seq, const mfa_quantization_params_t *params, mfa_buffer_t buffer) {
    const int64_t row = bytes_of(params, D);
    unsigned char *codes = mfa_buffer_contents(buffer);
    float *real = malloc((size_t)(B * H * seq * D + 1) * sizeof(float));
    for (int64_t i = 0; i < B * H * seq; ++i) {
        const int64_t b = i / (H * seq), h = i / seq % H, n = i % seq;
        unsigned char *at = codes + ((b * seq + n) * H + h) * row;
        for (int64_t byte = 0; byte < row; ++byte)
            at[byte] = (unsigned char)rand();
        for (int64_t d = 0; d < D; ++d)
            real[i * D + d] = real_at(at, params, d);
    }
    return real;
}

static int64_t place(int64_t seq, int64_t i) {
    const int64_t b = i / (H * seq * D), h = i / (seq * D) % H, n = i / D % seq, d = i % D;
    return ((b * seq + n) * H + h) * D + d;
}

/* Random numbers in the flat layout, and as they are stored, packed. */
static float *random_rows(int64_t seq, int32_t precision, mfa_buffer_t buffer) {
    float *real = random_floats(B * H * seq * D);
    for (int64_t i = 0; i < B * H * seq * D; ++i) {
        store(precision, mfa_buffer_contents(buffer), place(seq, i), real[i]);
        real[i] = load(precision, mfa_buffer_contents(buffer), place(seq, i));
    }
    return real;
}

/* Relative to the largest number, or to 0.1. */
static double difference(mfa_buffer_t buffer, int32_t precision, int64_t seq, const double *expected) {
    double most = 0, size = 0.1;
    for (int64_t i = 0; i < B * H * seq * D; ++i) {
        const double found = fabs(load(precision, mfa_buffer_contents(buffer), place(seq, i)) - expected[i]);
        most = found > most || isnan(found) ? found : most;
        size = fmax(size, fabs(expected[i]));
    }
    return most / size;
}

static double rows_difference(mfa_buffer_t buffer, int64_t rows, const double *expected) {
    double most = 0;
    for (int64_t i = 0; i < rows; ++i) {
        const float found = ((const float *)mfa_buffer_contents(buffer))[i];
        const double off = found == expected[i] ? 0 : fabs(found - expected[i]);
        most = off > most || isnan(off) ? off : most;
    }
    return most;
}

static mfa_tensor_t packed(float *data, int64_t rows) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.data = data;
    tensor.shape[0] = 1, tensor.shape[1] = B * H, tensor.shape[2] = rows, tensor.shape[3] = D;
    return tensor;
}

#define SCALE 0.3f

static void test_attention(mfa_context_t context, uint32_t nq, uint32_t nkv, bool causal,
                           const mfa_quantization_params_t *key_params, const mfa_quantization_params_t *value_params) {
    enum { Q, K, V, OUT, LSE, DOUT, DQ, DK, DV, DELTA, BUFFERS };
    const int64_t queries = B * H * nq * D, keys = B * H * nkv * D;
    const int64_t bytes[BUFFERS] = {queries * 2,
                                    B * H * nkv * bytes_of(key_params, D),
                                    B * H * nkv * bytes_of(value_params, D),
                                    queries * 4,
                                    B * H * nq * 4,
                                    queries * 4,
                                    queries * 4,
                                    keys * 4,
                                    keys * 4,
                                    B * H * nq * 4};
    mfa_buffer_t b[BUFFERS];
    for (int i = 0; i < BUFFERS; ++i) {
        b[i] = i == K   ? remembering(context, bytes[i], key_params)
               : i == V ? remembering(context, bytes[i], value_params)
                        : buffer_of(context, bytes[i]);
        memset(mfa_buffer_contents(b[i]), 0xff, mfa_buffer_size(b[i]));
    }
    float *q = random_rows(nq, MFA_PRECISION_FP16, b[Q]), *dout = random_rows(nq, MFA_PRECISION_FP32, b[DOUT]);
    float *k = random_codes(nkv, key_params, b[K]), *v = random_codes(nkv, value_params, b[V]);
    const mfa_tensor_t query = packed(q, nq), key = packed(k, nkv), value = packed(v, nkv), gradient = packed(dout, nq);
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &query, desc.key = &key, desc.value = &value;
    desc.softmax_scale = SCALE;
    desc.flags = causal ? MFA_ATTENTION_CAUSAL : 0;
    naive_gradients_t g = naive_gradients(&desc, &gradient);
    double *delta = zeros(B * H * nq);
    for (int64_t i = 0; i < queries; ++i)
        delta[i / D] += dout[i] * g.out[i];

    CHECK(mfa_attention_forward_quantized(context, b[Q], b[K], b[V], b[OUT], b[LSE], B, nq, nkv, H, D, SCALE, causal,
                                          key_params, value_params) == MFA_SUCCESS);
    CHECK(difference(b[OUT], MFA_PRECISION_FP32, nq, g.out) < 4e-3);
    CHECK(rows_difference(b[LSE], B * H * nq, g.logsumexp) < 4e-3);
    CHECK(mfa_attention_backward_query_quantized(context, b[Q], b[K], b[V], b[OUT], b[DOUT], b[LSE], b[DQ], b[DELTA], B,
                                                 nq, nkv, H, D, SCALE, causal, key_params,
                                                 value_params) == MFA_SUCCESS);
    CHECK(difference(b[DQ], MFA_PRECISION_FP32, nq, g.dquery) < 1e-2);
    CHECK(rows_difference(b[DELTA], B * H * nq, delta) < 2e-2);
    CHECK(mfa_attention_backward_kv_quantized(context, b[Q], b[K], b[V], b[DOUT], b[LSE], b[DELTA], b[DK], b[DV], B, nq,
                                              nkv, H, D, SCALE, causal, key_params, value_params) == MFA_SUCCESS);
    CHECK(difference(b[DK], MFA_PRECISION_FP32, nkv, g.dkey) < 1e-2);
    CHECK(difference(b[DV], MFA_PRECISION_FP32, nkv, g.dvalue) < 1e-2);

    /* The same without logsumexp, and by what the buffers remember. */
    float *const first = malloc((size_t)queries * 4 + 1);
    memcpy(first, mfa_buffer_contents(b[OUT]), (size_t)queries * 4);
    for (int mixed = 0; mixed < 2; ++mixed) {
        memset(mfa_buffer_contents(b[OUT]), 0xff, mfa_buffer_size(b[OUT]));
        CHECK((mixed ? mfa_attention_forward_mixed(context, b[Q], b[K], b[V], b[OUT], B, nq, nkv, H, D, SCALE, causal,
                                                   MFA_PRECISION_FP16, key_params->precision, value_params->precision,
                                                   MFA_PRECISION_FP32, false, false, false, false)
                     : mfa_attention_forward_quantized(context, b[Q], b[K], b[V], b[OUT], NULL, B, nq, nkv, H, D, SCALE,
                                                       causal, key_params, value_params)) == MFA_SUCCESS);
        CHECK(memcmp(first, mfa_buffer_contents(b[OUT]), (size_t)queries * 4) == 0);
    }
    destroy(b, BUFFERS);
    free_gradients(&g);
    free(q), free(k), free(v), free(dout), free(delta), free(first);
}

/* Every precision of queries, codes on one side only or on none, and what may be transposed. */
static void test_mixed(mfa_context_t context) {
    enum { NQ = 7, NKV = 40, Q = 0, K, V, OUT, BUFFERS };
    for (int round = 0; round < 12; ++round) {
        const int32_t precision = round % 3, codes = round / 3; /* bit 0: keys, bit 1: values */
        const mfa_quantization_params_t *params = &several[round % SEVERAL];
        mfa_buffer_t b[BUFFERS] = {
            buffer_of(context, B * H * NQ * D * 4), remembering(context, B * H * NKV * D * 4, params),
            remembering(context, B * H * NKV * D * 4, params), buffer_of(context, B * H * NQ * D * 4)};
        float *q = random_rows(NQ, precision, b[Q]);
        float *k = codes & 1 ? random_codes(NKV, params, b[K]) : random_rows(NKV, precision, b[K]);
        float *v = codes & 2 ? random_codes(NKV, params, b[V]) : random_rows(NKV, precision, b[V]);
        float *out = random_floats(B * H * NQ * D), *logsumexp = random_floats(B * H * NQ);
        double *expected = zeros(B * H * NQ * D);
        naive_attention(q, k, v, B * H, NQ, NKV, D, SCALE, false, out, logsumexp);
        for (int64_t i = 0; i < B * H * NQ * D; ++i)
            expected[i] = out[i];
        CHECK(mfa_attention_forward_mixed(context, b[Q], b[K], b[V], b[OUT], B, NQ, NKV, H, D, SCALE, false, precision,
                                          codes & 1 ? params->precision : precision,
                                          codes & 2 ? params->precision : precision, MFA_PRECISION_FP32, false, false,
                                          false, false) == MFA_SUCCESS);
        CHECK(difference(b[OUT], MFA_PRECISION_FP32, NQ, expected) < (precision == MFA_PRECISION_FP32 ? 1e-5 : 2e-2));
        destroy(b, BUFFERS);
        free(q), free(k), free(v), free(out), free(logsumexp), free(expected);
    }
}

/* ---------------------------------------------------------------------- errors */

enum { BIG = 4096 };

static void test_mixed_errors(mfa_context_t context, mfa_context_t other) {
    mfa_buffer_t big = buffer_of(context, BIG), out = buffer_of(context, BIG), foreign = NULL;
    mfa_buffer_t codes = remembering(context, BIG, &several[0]), nibbles = remembering(context, BIG, &several[8]);
    mfa_buffer_t small = remembering(context, 31, &several[0]);
    CHECK(mfa_create_quantized_buffer(other, BIG, MFA_PRECISION_INT8, 1, 0, &foreign) == MFA_SUCCESS);
    memset(mfa_buffer_contents(out), 0x55, BIG);
#define MIXED(q, k, v, out, query, key, value, output, tk, tv)                                                        \
    mfa_attention_forward_mixed(context, q, k, v, out, 1, 4, 4, 1, 8, 1, false, query, key, value, output, false, tk, \
                                tv, false)
#define REFUSED(call, fragment) CHECK_FAILS(call, MFA_ERROR_INVALID_ARGS, fragment)
    REFUSED(mfa_attention_forward_mixed(NULL, big, codes, codes, out, 1, 4, 4, 1, 8, 1, false, 2, 3, 3, 2, 0, 0, 0, 0),
            "context is NULL");
    REFUSED(MIXED(NULL, codes, codes, out, 2, 3, 3, 2, 0, 0), "q is NULL");
    REFUSED(MIXED(big, NULL, codes, out, 2, 3, 3, 2, 0, 0), "k is NULL");
    REFUSED(MIXED(big, codes, NULL, out, 2, 3, 3, 2, 0, 0), "v is NULL");
    REFUSED(MIXED(big, codes, codes, NULL, 2, 3, 3, 2, 0, 0), "out is NULL");
    REFUSED(MIXED(big, codes, codes, out, 3, 3, 3, 2, 0, 0), "query.precision is INT8");
    REFUSED(MIXED(big, codes, codes, out, 2, 7, 3, 2, 0, 0), "precision of k is 7, expected FP16, BF16, FP32, INT8");
    REFUSED(MIXED(big, codes, codes, out, 2, 3, -1, 2, 0, 0), "precision of v is -1, expected FP16");
    REFUSED(MIXED(big, codes, codes, out, 2, 4, 3, 2, 0, 0), "precision of k is INT4, but its buffer has INT8");
    REFUSED(MIXED(big, codes, nibbles, out, 2, 3, 3, 2, 0, 0), "precision of v is INT8, but its buffer has INT4");
    REFUSED(MIXED(big, big, codes, out, 2, 3, 3, 2, 0, 0),
            "k has codes, but is no buffer of mfa_create_quantized_buffer");
    REFUSED(MIXED(big, codes, codes, out, 2, 3, 3, 2, 1, 0), "k is transposed, but has codes");
    REFUSED(MIXED(big, codes, nibbles, out, 2, 3, 4, 2, 0, 1), "v is transposed, but has codes");
    REFUSED(MIXED(big, codes, big, out, 2, 3, 0, 2, 0, 0), "value.precision is FP16, expected query's, FP32");
    REFUSED(MIXED(big, codes, codes, out, 2, 3, 3, 3, 0, 0), "out.precision is INT8");
    REFUSED(MIXED(big, small, codes, out, 2, 3, 3, 2, 0, 0),
            "key reaches from byte 0 to 32 around offset 0 of a buffer of 31");
    REFUSED(MIXED(big, foreign, codes, out, 2, 3, 3, 2, 0, 0), "key.buffer belongs to another context");
    REFUSED(MIXED(big, codes, codes, codes, 2, 3, 3, 2, 0, 0), "out overlaps key");
    REFUSED(mfa_attention_forward_mixed(context, big, nibbles, codes, out, 1, UINT32_MAX, UINT32_MAX, UINT32_MAX,
                                        0xffff, 1, false, 2, 4, 3, 2, 0, 0, 0, 0),
            "overflows 64 bits");
#undef MIXED
    int touched = 0;
    for (int i = 0; i < BIG; ++i)
        touched |= ((char *)mfa_buffer_contents(out))[i] != 0x55;
    CHECK(!touched);
    destroy((mfa_buffer_t[]){big, out, foreign, codes, nibbles, small}, 6);
}

/* Every buffer of every call: NULL, too small, and shared with a result; parameters that are wrong. */
static void test_quantized_errors(mfa_context_t context) {
    enum { Q, K, V, OUT, LSE, DOUT, DQ, DK, DV, DELTA, BUFFERS };
    static const char *const names[BUFFERS] = {"q",           "k",          "v",        "out",        "logsumexp",
                                               "grad_output", "grad_query", "grad_key", "grad_value", "d_values"};
    enum {
        FORWARD = 1 << Q | 1 << K | 1 << V | 1 << OUT,
        BACKWARD_QUERY = FORWARD | 1 << LSE | 1 << DOUT | 1 << DQ | 1 << DELTA,
        BACKWARD_KV = (BACKWARD_QUERY | 1 << DK | 1 << DV) & ~(1 << OUT | 1 << DQ)
    };
    static const int used[] = {FORWARD | 1 << LSE, BACKWARD_QUERY, BACKWARD_KV};
    static const int written[] = {1 << OUT | 1 << LSE, 1 << DQ | 1 << DELTA, 1 << DK | 1 << DV};
    mfa_buffer_t big[BUFFERS], small = buffer_of(context, 8);
    for (int i = 0; i < BUFFERS; ++i) {
        big[i] = buffer_of(context, BIG);
        memset(mfa_buffer_contents(big[i]), 0x55, BIG);
    }
    const mfa_quantization_params_t params = several[0];
#define CALL(kind, b, heads, key_params, value_params)                                                                 \
    ((kind) == 0 ? mfa_attention_forward_quantized(context, b[Q], b[K], b[V], b[OUT], b[LSE], 1, 4, 4, heads, 8, 1,    \
                                                   false, key_params, value_params)                                    \
     : (kind) == 1                                                                                                     \
         ? mfa_attention_backward_query_quantized(context, b[Q], b[K], b[V], b[OUT], b[DOUT], b[LSE], b[DQ], b[DELTA], \
                                                  1, 4, 4, heads, 8, 1, false, key_params, value_params)               \
         : mfa_attention_backward_kv_quantized(context, b[Q], b[K], b[V], b[DOUT], b[LSE], b[DELTA], b[DK], b[DV], 1,  \
                                               4, 4, heads, 8, 1, false, key_params, value_params))
    for (int kind = 0; kind < 3; ++kind) {
        for (int i = 0; i < BUFFERS; ++i) {
            if (!(used[kind] >> i & 1))
                continue;
            mfa_buffer_t given[BUFFERS];
            memcpy(given, big, sizeof given);
            given[i] = NULL;
            char message[32];
            snprintf(message, sizeof message, "%s is NULL", names[i]);
            if (kind > 0 || i != LSE)
                REFUSED(CALL(kind, given, 1, &params, &params), message);
            given[i] = small;
            REFUSED(CALL(kind, given, 1, &params, &params), "of a buffer of 8 bytes");
            given[i] = big[Q];
            if (written[kind] >> i & 1)
                REFUSED(CALL(kind, given, 1, &params, &params), "overlaps query in memory");
        }
        mfa_quantization_params_t wrong = params;
        wrong.scale = NAN;
        REFUSED(CALL(kind, big, 1, &wrong, &params), "key_params.scale is nan");
        REFUSED(CALL(kind, big, 1, &params, &wrong), "value_params.scale is nan");
        wrong = params;
        wrong.zero_point = 256;
        REFUSED(CALL(kind, big, 1, &params, &wrong), "value_params.zero_point is 256, expected -128 to 255 for INT8");
        wrong.precision = MFA_PRECISION_UINT4;
        REFUSED(CALL(kind, big, 1, &wrong, &params), "key_params.precision is 8, expected MFA_PRECISION_INT8 or INT4");
        REFUSED(CALL(kind, big, 1, NULL, &params), "key_params is NULL");
        REFUSED(CALL(kind, big, 1, &params, NULL), "value_params is NULL");
        REFUSED(CALL(kind, big, 0, &params, &params), "query has 0 heads");
    }
#undef CALL
    REFUSED(mfa_attention_forward_quantized(NULL, big[Q], big[K], big[V], big[OUT], NULL, 1, 4, 4, 1, 8, 1, false,
                                            &params, &params),
            "context is NULL");
    int touched = 0;
    for (int i = 0; i < BUFFERS; ++i)
        for (int at = 0; at < BIG; ++at)
            touched |= ((char *)mfa_buffer_contents(big[i]))[at] != 0x55;
    CHECK(!touched);
    mfa_destroy_buffer(small);
    destroy(big, BUFFERS);
}

/* ---------------------------------------------------------- the seed's examples */

/* What the README that mfa began with shows, in its order, with the signatures that mfa.h has. */
static void test_readme(mfa_context_t context) {
    enum { BATCH = 1, ROWS = 64, HEADS = 4, COLUMNS = 32, COUNT = BATCH * ROWS * HEADS * COLUMNS };
    mfa_quantization_params_t params[] = {{.scale = 0.1f, .zero_point = 128, .precision = MFA_PRECISION_INT8},
                                          {.scale = 0.05f, .zero_point = 8, .precision = MFA_PRECISION_INT4}};
    mfa_buffer_t quantized[2], inputs[2] = {buffer_of(context, COUNT * 4), buffer_of(context, COUNT * 4)};
    /* The batch changes what this one remembers. */
    CHECK(mfa_create_quantized_buffer(context, COUNT, MFA_PRECISION_INT8, 3, 0, &quantized[0]) == MFA_SUCCESS);
    CHECK(mfa_create_quantized_buffer(context, COUNT / 2, MFA_PRECISION_INT4, 0.05f, 8, &quantized[1]) == MFA_SUCCESS);
    for (int i = 0; i < 2; ++i)
        for (int at = 0; at < COUNT; ++at)
            ((float *)mfa_buffer_contents(inputs[i]))[at] = 0.35f * random_float();
    CHECK(mfa_validate_quantization_params(&params[0], -0.35f, 0.35f) == MFA_SUCCESS);
    CHECK(mfa_validate_quantization_params(&params[1], -0.35f, 0.35f) == MFA_SUCCESS);
    CHECK(mfa_quantize_tensor_batch(context, inputs, quantized, params, 2) == MFA_SUCCESS);
    const mfa_shape_t shape = {4, {BATCH, ROWS, HEADS, COLUMNS}};
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT8) == 4);
    CHECK(mfa_calculate_memory_reduction(&shape, MFA_PRECISION_FP32, MFA_PRECISION_INT4) == 8);
    for (int i = 0; i < 2; ++i) { /* as of numbers spread evenly over a step */
        const float error = mfa_estimate_quantization_error(inputs[i], quantized[i], &params[i]);
        CHECK(error > 0.2f * params[i].scale && error < 0.35f * params[i].scale);
    }
    mfa_buffer_t query = buffer_of(context, COUNT * 2), out = buffer_of(context, COUNT * 4),
                 mixed = buffer_of(context, COUNT * 4), logsumexp = buffer_of(context, BATCH * HEADS * ROWS * 4);
    mfa_buffer_t grad_query = buffer_of(context, COUNT * 4), d_values = buffer_of(context, BATCH * HEADS * ROWS * 4),
                 grad_key = buffer_of(context, COUNT * 4), grad_value = buffer_of(context, COUNT * 4);
    for (int at = 0; at < COUNT; ++at)
        store(MFA_PRECISION_FP16, mfa_buffer_contents(query), at, random_float());
    CHECK(mfa_attention_forward_mixed(context, query, quantized[0], quantized[1], mixed, BATCH, ROWS, ROWS, HEADS,
                                      COLUMNS, 0.18f, false, MFA_PRECISION_FP16, MFA_PRECISION_INT8, MFA_PRECISION_INT4,
                                      MFA_PRECISION_FP32, false, false, false, false) == MFA_SUCCESS);
    CHECK(mfa_attention_forward_quantized(context, query, quantized[0], quantized[1], out, logsumexp, BATCH, ROWS, ROWS,
                                          HEADS, COLUMNS, 0.18f, false, &params[0], &params[1]) == MFA_SUCCESS);
    CHECK(memcmp(mfa_buffer_contents(mixed), mfa_buffer_contents(out), COUNT * 4) == 0);
    /* With dout = out, whose sums of squares d_values then are. */
    CHECK(mfa_attention_backward_query_quantized(context, query, quantized[0], quantized[1], out, out, logsumexp,
                                                 grad_query, d_values, BATCH, ROWS, ROWS, HEADS, COLUMNS, 0.18f, false,
                                                 &params[0], &params[1]) == MFA_SUCCESS);
    CHECK(mfa_attention_backward_kv_quantized(context, query, quantized[0], quantized[1], out, logsumexp, d_values,
                                              grad_key, grad_value, BATCH, ROWS, ROWS, HEADS, COLUMNS, 0.18f, false,
                                              &params[0], &params[1]) == MFA_SUCCESS);
    double squares = 0;
    for (int d = 0; d < COLUMNS; ++d)
        squares += pow(((const float *)mfa_buffer_contents(out))[d], 2);
    CHECK(fabs(squares - *(const float *)mfa_buffer_contents(d_values)) < 1e-5);
    mfa_buffer_t all[] = {inputs[0], inputs[1], quantized[0], quantized[1], query,    out,
                          mixed,     logsumexp, grad_query,   d_values,     grad_key, grad_value};
    destroy(all, sizeof all / sizeof *all);
}

int main(void) {
    test_params();
    test_memory_reduction();
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        mfa_context_t context = NULL, other = NULL;
        mfa_status_t status = mfa_create_context_with_options(&options, &context);
        if (status == MFA_ERROR_DEVICE_NOT_SUPPORTED)
            continue;
        CHECK(status == MFA_SUCCESS && mfa_create_context_with_options(&options, &other) == MFA_SUCCESS);
        test_create(context);
        test_batch(context);
        test_batch_errors(context, other);
        test_estimate_errors(context);
        for (int i = 0; i < SEVERAL; ++i)
            test_attention(context, 7, 33, i % 2, &several[i], &several[(i * 3 + 1) % SEVERAL]);
        test_attention(context, 50, 49, true, &several[0], &several[8]);
        test_attention(context, 1, 300, false, &several[5], &several[3]);
        test_attention(context, 5, 0, false, &several[0], &several[5]);
        test_mixed(context);
        test_readme(context);
        test_mixed_errors(context, other);
        test_quantized_errors(context);
        mfa_destroy_context(context);
        mfa_destroy_context(other);
    }
    return check_report();
}

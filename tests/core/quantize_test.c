/* What mfa_quantize refuses, each time without writing anything, and what it takes. */
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "core/buffer.h"

enum { B = 2, H = 3, N = 5, D = 34, COUNT = B * H * N * D, UNTOUCHED = 0x5a };

static float input[COUNT], scales[COUNT], mean[B * H * D];
static int8_t codes[COUNT];
static int32_t zero_points[COUNT];

typedef struct {
    mfa_tensor_t input, codes, scales, zero_points, mean;
    mfa_quantization_t quantization;
    mfa_quantize_desc_t desc;
} call_t;

static mfa_tensor_t packed(int32_t precision, void *data, int64_t b, int64_t h, int64_t n, int64_t d) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    const int64_t shape[4] = {b, h, n, d}, stride[4] = {h * n * d, n * d, d, 1};
    tensor.precision = precision;
    tensor.data = data;
    memcpy(tensor.shape, shape, sizeof shape);
    memcpy(tensor.stride, stride, sizeof stride);
    return tensor;
}

/* Per token in groups of 32 columns, with everything that there can be. */
static void describe(call_t *c) {
    for (int i = 0; i < COUNT; ++i)
        input[i] = sinf((float)i);
    c->input = packed(MFA_PRECISION_FP32, input, B, H, N, D);
    c->codes = packed(MFA_PRECISION_INT8, codes, B, H, N, D);
    c->scales = packed(MFA_PRECISION_FP32, scales, B, H, N, 2);
    c->zero_points = packed(MFA_PRECISION_INT32, zero_points, B, H, N, 2);
    c->mean = packed(MFA_PRECISION_FP32, mean, B, H, 1, D);
    c->quantization = (mfa_quantization_t)MFA_QUANTIZATION_INIT;
    c->quantization.rows = 1;
    c->quantization.columns = 32;
    c->quantization.scales = &c->scales;
    c->quantization.zero_points = &c->zero_points;
    c->quantization.mean = &c->mean;
    c->desc = (mfa_quantize_desc_t)MFA_QUANTIZE_DESC_INIT;
    c->desc.input = &c->input;
    c->desc.codes = &c->codes;
    c->desc.quantization = &c->quantization;
}

static void clear(void) {
    memset(codes, UNTOUCHED, sizeof codes);
    memset(scales, UNTOUCHED, sizeof scales);
    memset(zero_points, UNTOUCHED, sizeof zero_points);
    memset(mean, UNTOUCHED, sizeof mean);
}

static bool is_untouched(void) {
    static const void *const arrays[] = {codes, scales, zero_points, mean};
    static const size_t sizes[] = {sizeof codes, sizeof scales, sizeof zero_points, sizeof mean};
    bool untouched = true;
    for (int i = 0; i < 4; ++i)
        for (size_t j = 0; j < sizes[i]; ++j)
            untouched &= ((const char *)arrays[i])[j] == UNTOUCHED;
    return untouched;
}

#define REFUSES(status, fragment, ...)                                 \
    do {                                                               \
        call_t c;                                                      \
        describe(&c);                                                  \
        clear();                                                       \
        __VA_ARGS__;                                                   \
        CHECK_FAILS(mfa_quantize(context, &c.desc), status, fragment); \
        CHECK(is_untouched());                                         \
    } while (0)
#define REFUSES_ARGS(fragment, ...) REFUSES(MFA_ERROR_INVALID_ARGS, fragment, __VA_ARGS__)

static void test_structs(mfa_context_t context) {
    call_t good;
    describe(&good);
    CHECK_FAILS(mfa_quantize(NULL, &good.desc), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK_FAILS(mfa_quantize(context, NULL), MFA_ERROR_INVALID_ARGS, "desc is NULL");
    REFUSES_ARGS("desc.struct_size is 8, expected at least", c.desc.struct_size = 8);
    REFUSES_ARGS("flags is 0x4, which has bits this library does not know (known: 0x3)", c.desc.flags = 4);
    REFUSES_ARGS("input is NULL", c.desc.input = NULL);
    REFUSES_ARGS("codes is NULL", c.desc.codes = NULL);
    REFUSES_ARGS("quantization is NULL", c.desc.quantization = NULL);
    REFUSES_ARGS("quantization.scales is NULL", c.quantization.scales = NULL);
    REFUSES_ARGS("quantization.reserved is 7, expected 0", c.quantization.reserved = 7);
    REFUSES_ARGS("quantization.rows is -1, expected 0 (all) or more", c.quantization.rows = -1);
    REFUSES_ARGS("quantization.columns is 33, expected 0 (all), 1 or a multiple of 32", c.quantization.columns = 33);
    struct {
        mfa_quantize_desc_t desc;
        uint64_t later;
    } newer;
    memset(&newer, 0, sizeof newer);
    newer.desc = good.desc;
    newer.desc.struct_size = sizeof newer;
    CHECK(mfa_quantize(context, &newer.desc) == MFA_SUCCESS);
    newer.later = 1;
    CHECK_FAILS(mfa_quantize(context, &newer.desc), MFA_ERROR_UNSUPPORTED, "uses a field at byte");
}

static void test_tensors(mfa_context_t context) {
    REFUSES_ARGS("input.precision is INT8, expected FP16, BF16 or FP32", c.input.precision = MFA_PRECISION_INT8);
    REFUSES_ARGS("codes.precision is FP32, expected INT8, INT4, UINT8 or UINT4",
                 c.codes.precision = MFA_PRECISION_FP32);
    REFUSES_ARGS("quantization.scales.precision is BF16, expected FP16 or FP32",
                 c.scales.precision = MFA_PRECISION_BF16);
    REFUSES_ARGS("quantization.zero_points.precision is FP32, expected INT8, INT32 or UINT8",
                 c.zero_points.precision = MFA_PRECISION_FP32);
    REFUSES_ARGS("quantization.mean.precision is FP16, expected FP32", c.mean.precision = MFA_PRECISION_FP16);
    REFUSES_ARGS("codes has shape (2, 3, 4, 34), expected (2, 3, 5, 34)", c.codes.shape[2] = 4);
    REFUSES_ARGS("quantization.scales has shape (2, 3, 5, 1), expected (2, 3, 5, 2)", c.scales.shape[3] = 1);
    REFUSES_ARGS("quantization.scales has shape (2, 3, 1, 2), expected (2, 3, 5, 2)", c.scales.shape[2] = 1);
    REFUSES_ARGS("quantization.zero_points has shape (2, 1, 5, 2), expected (2, 3, 5, 2)", c.zero_points.shape[1] = 1);
    REFUSES_ARGS("quantization.mean has shape (2, 3, 1, 1), expected (2, 3, 1, 34)", c.mean.shape[3] = 1);
    REFUSES_ARGS("quantization.zero_points is NULL, expected zero points for UINT8 codes",
                 c.codes.precision = MFA_PRECISION_UINT8;
                 c.quantization.zero_points = NULL);
    REFUSES_ARGS("quantization.zero_points.precision is INT8, which does not have all of 0 to 255",
                 c.codes.precision = MFA_PRECISION_UINT8;
                 c.zero_points.precision = MFA_PRECISION_INT8);
    REFUSES_ARGS("quantization.zero_points.precision is UINT8, which does not have all of -128 to 127",
                 c.zero_points.precision = MFA_PRECISION_UINT8);
}

static void test_memory(mfa_context_t context) {
    REFUSES_ARGS("codes: stride 0 of dimension 2 does not exceed", c.codes.stride[2] = 0);
    REFUSES_ARGS("quantization.scales: stride 0 of dimension 1 does not exceed", c.scales.stride[1] = 0);
    REFUSES_ARGS("quantization.zero_points: stride 1 of dimension 3 does not exceed", c.zero_points.stride[2] = 1);
    REFUSES_ARGS("quantization.mean: stride 0 of dimension 0 does not exceed", c.mean.stride[0] = 0);
    REFUSES_ARGS("codes overlaps input in memory", c.codes.data = input);
    REFUSES_ARGS("codes overlaps quantization.scales in memory", c.codes.data = (char *)scales + 7);
    REFUSES_ARGS("quantization.scales overlaps quantization.mean in memory", c.scales.data = mean);
    REFUSES_ARGS("quantization.zero_points overlaps input in memory", c.zero_points.data = input + COUNT - 1);
    REFUSES_ARGS("quantization.mean overlaps input in memory", c.mean.data = input);
    REFUSES_ARGS("codes overlaps quantization.scales in memory", c.desc.flags = MFA_QUANTIZE_STATIC;
                 c.codes.data = scales);

    call_t c;
    describe(&c);
    CHECK(mfa_create_buffer(context, sizeof codes, &c.codes.buffer) == MFA_SUCCESS);
    c.codes.data = NULL;
    CHECK(mfa_quantize(context, &c.desc) == MFA_SUCCESS);
    void **contents = &((mfai_memory_t *)(uintptr_t)mfai_buffer_memory(c.codes.buffer))->contents, *kept = *contents;
    *contents = NULL; /* as that of memory that only the device can reach */
    CHECK_FAILS(mfa_quantize(context, &c.desc), MFA_ERROR_UNSUPPORTED,
                "codes lies in a Metal buffer in private storage, which the CPU cannot reach");
    *contents = kept;
    mfa_destroy_buffer(c.codes.buffer);
}

static void fill_static(void) {
    for (int i = 0; i < B * H * N * 2; ++i)
        scales[i] = 0.5f, zero_points[i] = 3;
    for (int i = 0; i < B * H * D; ++i)
        mean[i] = 1;
}

#define REFUSES_STATIC(fragment, ...)                                                  \
    do {                                                                               \
        call_t c;                                                                      \
        describe(&c);                                                                  \
        clear();                                                                       \
        fill_static();                                                                 \
        c.desc.flags = MFA_QUANTIZE_STATIC;                                            \
        __VA_ARGS__;                                                                   \
        CHECK_FAILS(mfa_quantize(context, &c.desc), MFA_ERROR_INVALID_ARGS, fragment); \
        CHECK(codes[0] == UNTOUCHED && codes[COUNT - 1] == UNTOUCHED);                 \
    } while (0)

static void test_static(mfa_context_t context) {
    REFUSES_STATIC("quantization.scales[1, 2, 4, 1] is 0, expected a positive finite number",
                   scales[B * H * N * 2 - 1] = 0);
    REFUSES_STATIC("quantization.scales[0, 0, 3, 0] is inf, expected a positive finite number", scales[6] = INFINITY);
    REFUSES_STATIC("quantization.scales[0, 1, 0, 1] is -1, expected", scales[11] = -1);
    REFUSES_STATIC("quantization.zero_points[0, 0, 0, 1] is 128, expected -128 to 127", zero_points[1] = 128);
    REFUSES_STATIC("quantization.mean[1, 0, 0, 33] is nan, expected a finite number", mean[H * D + 33] = NAN);
    REFUSES_STATIC("input[1, 1, 2, 33] is nan, expected", input[((1 * H + 1) * N + 2) * D + 33] = NAN);

    call_t c;
    describe(&c);
    clear();
    fill_static();
    c.desc.flags = MFA_QUANTIZE_STATIC;
    input[0] = 1000, input[1] = -1000;
    CHECK(mfa_quantize(context, &c.desc) == MFA_SUCCESS);
    CHECK(codes[0] == 127 && codes[1] == -128);
    for (int i = 2; i < COUNT; ++i)
        CHECK(codes[i] == (int)rintf((input[i] - 1) / 0.5f) + 3);
    for (int i = 0; i < B * H * N * 2; ++i)
        CHECK(scales[i] == 0.5f && zero_points[i] == 3);
    CHECK(mean[0] == 1 && mean[B * H * D - 1] == 1);
}

static void test_elements(mfa_context_t context) {
    /* The first is named, wherever threads are. */
    REFUSES_ARGS("input[0, 1, 4, 33] is nan, expected a finite number", input[(1 * N + 4) * D + 33] = NAN;
                 input[COUNT - 1] = INFINITY);
    REFUSES_ARGS("input[1, 2, 4, 33] is -inf, expected a finite number", input[COUNT - 1] = -INFINITY);
    REFUSES_ARGS("quantization.scales[0, 0, 1, 0] would be 78", c.quantization.mean = NULL; input[D + 3] = 2e7f;
                 c.scales.precision = MFA_PRECISION_FP16);
    REFUSES_ARGS("quantization.scales[1, 2, 4, 1] would be inf, but the largest number of FP32 is 3.4",
                 c.quantization.mean = NULL;
                 input[COUNT - 1] = 3e38f; input[COUNT - 2] = -3e38f);

    /* Symmetric, each row with one scale. */
    call_t c;
    describe(&c);
    c.quantization.columns = 0;
    c.quantization.zero_points = NULL;
    c.quantization.mean = NULL;
    c.scales = packed(MFA_PRECISION_FP32, scales, B, H, N, 1);
    c.desc.flags = MFA_QUANTIZE_SATURATE;
    input[0] = NAN, input[1] = INFINITY, input[2] = -INFINITY, input[3] = -254;
    for (int i = 0; i < D; ++i)
        input[D + i] = NAN;
    CHECK(mfa_quantize(context, &c.desc) == MFA_SUCCESS);
    CHECK(scales[0] == 2 && codes[0] == 0 && codes[1] == 127 && codes[2] == -127 && codes[3] == -127);
    CHECK(scales[1] == 1 && codes[D] == 0 && codes[2 * D - 1] == 0);
}

static void test_empty(mfa_context_t context) {
    for (int axis = 0; axis < 4; ++axis) {
        call_t c;
        describe(&c);
        c.quantization = (mfa_quantization_t)MFA_QUANTIZATION_INIT;
        c.quantization.scales = &c.scales;
        c.input.shape[axis] = c.codes.shape[axis] = 0;
        c.scales = packed(MFA_PRECISION_FP32, scales, 1, 1, 1, 1);
        CHECK(mfa_quantize(context, &c.desc) == MFA_SUCCESS && scales[0] == 1);
    }
}

int main(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    mfa_context_t context = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    test_structs(context);
    test_tensors(context);
    test_memory(context);
    test_static(context);
    test_elements(context);
    test_empty(context);
    mfa_destroy_context(context);
    return check_report();
}

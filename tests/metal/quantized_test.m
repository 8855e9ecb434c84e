/*
 * Codes of keys and values on Metal: of these, kernels read the bytes that codes take; scales that the CPU cannot read
 * do no harm, whatever they hold; and codes in memory that Metal cannot wrap are copied byte by byte.
 */
#import <Metal/Metal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "emulator.h"
#include "mfa.h"
#include "mfa_params.h"
#include "naive.h"

enum { HEADS = 4, KV_HEADS = 2, KEYS = 100, MOST_ROWS = 20, MOST_DIM = 64, GROUP = 32 };
enum { FLOATS = HEADS * KEYS * MOST_DIM };

static mfa_context_t context;
static id<MTLDevice> device;

/* Sizes and formats of a call; keys and values have the same. */
typedef struct {
    int64_t rows, dim;
    int32_t format;
    int64_t scale_rows, scale_columns;
    bool has_zero_points, has_mean;
} case_t;

typedef struct {
    float query[FLOATS], mean[FLOATS], out[FLOATS];
    uint8_t key[2 * FLOATS], value[2 * FLOATS], half_query[2 * FLOATS];
    float scales[FLOATS];
    int32_t zero_points[FLOATS];
    mfa_buffer_t private_scales, private_zero_points, private_mean;
} arrays_t;

static mfa_tensor_t tensor(void *data, int32_t precision, int64_t heads, int64_t rows, int64_t columns) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t pitch =
        precision == MFA_PRECISION_INT4 || precision == MFA_PRECISION_UINT4 ? (columns + 1) / 2 * 2 : columns;
    const int64_t shape[4] = {1, heads, rows, columns}, stride[4] = {heads * rows * pitch, rows * pitch, pitch, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.data = data;
    t.precision = precision;
    return t;
}

static void fill(arrays_t *a) {
    for (int i = 0; i < FLOATS; ++i) {
        a->query[i] = random_float();
        a->mean[i] = random_float();
        a->scales[i] = 0.01f + 0.01f * (float)(i % 3);
        a->zero_points[i] = i % 5;
    }
    for (int i = 0; i < 2 * FLOATS; ++i) {
        a->key[i] = (uint8_t)(rand() & (i % 2 == 1 ? 0xbf : 0xff)); /* finite as halves, too */
        a->value[i] = (uint8_t)(rand() & (i % 2 == 1 ? 0xbf : 0xff));
        a->half_query[i] = (uint8_t)(rand() & (i % 2 == 1 ? 0xbf : 0xff));
    }
}

static mfa_tensor_t in_buffer(mfa_tensor_t t, mfa_buffer_t buffer) {
    if (buffer != NULL) {
        t.data = NULL;
        t.buffer = buffer;
    }
    return t;
}

static mfa_status_t attend(const case_t *c, arrays_t *a, void *keys) {
    const bool is_coded = c->format != MFA_PRECISION_FP16;
    const int64_t lines = c->scale_rows == 0 ? 1 : (KEYS + c->scale_rows - 1) / c->scale_rows;
    const int64_t groups = c->scale_columns == 0 ? 1 : (c->dim + c->scale_columns - 1) / c->scale_columns;
    /* Halves of random floats may be NaN, and some NaN look like memory that nobody wrote. */
    const mfa_tensor_t query = is_coded ? tensor(a->query, MFA_PRECISION_FP32, HEADS, c->rows, c->dim)
                                        : tensor(a->half_query, c->format, HEADS, c->rows, c->dim);
    const mfa_tensor_t key = tensor(keys, c->format, KV_HEADS, KEYS, c->dim);
    const mfa_tensor_t value = tensor(a->value, c->format, KV_HEADS, KEYS, c->dim);
    const mfa_tensor_t out = tensor(a->out, MFA_PRECISION_FP32, HEADS, c->rows, c->dim);
    const mfa_tensor_t scales =
        in_buffer(tensor(a->scales, MFA_PRECISION_FP32, KV_HEADS, lines, groups), a->private_scales);
    const mfa_tensor_t zero_points =
        in_buffer(tensor(a->zero_points, MFA_PRECISION_INT32, KV_HEADS, lines, groups), a->private_zero_points);
    const mfa_tensor_t mean = in_buffer(tensor(a->mean, MFA_PRECISION_FP32, KV_HEADS, 1, c->dim), a->private_mean);
    mfa_quantization_t key_quantization = MFA_QUANTIZATION_INIT;
    key_quantization.rows = c->scale_rows;
    key_quantization.columns = c->scale_columns;
    key_quantization.scales = &scales;
    key_quantization.zero_points = c->has_zero_points ? &zero_points : NULL;
    mfa_quantization_t value_quantization = key_quantization;
    key_quantization.mean = c->has_mean ? &mean : NULL;
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &query;
    desc.key = &key;
    desc.value = &value;
    desc.out = &out;
    desc.key_quantization = is_coded ? &key_quantization : NULL;
    desc.value_quantization = is_coded ? &value_quantization : NULL;
    return mfa_attention_forward_desc(context, &desc);
}

/* ------------------------------------------------------------------ bytes */

static const int32_t formats[] = {MFA_PRECISION_FP16, MFA_PRECISION_INT8, MFA_PRECISION_UINT8, MFA_PRECISION_INT4,
                                  MFA_PRECISION_UINT4};
enum { FORMATS = sizeof formats / sizeof *formats };

static int64_t bits_of(int32_t format) {
    return format == MFA_PRECISION_FP16 ? 16 : format == MFA_PRECISION_INT8 || format == MFA_PRECISION_UINT8 ? 8 : 4;
}

/* Tiles of rows read keys for each head; few rows once for all heads that share them. */
static void test_bytes(arrays_t *a) {
    static const int64_t rows[] = {MOST_ROWS, 1};
    for (int i = 0; i < 2; ++i)
        for (int f = 0; f < FORMATS; ++f) {
            const bool is_coded = formats[f] != MFA_PRECISION_FP16;
            const case_t c = {rows[i], MOST_DIM, formats[f], 1, 0, is_coded, false};
            emu_counters_reset();
            CHECK(attend(&c, a, a->key) == MFA_SUCCESS);
            emu_counters counters;
            emu_counters_read(&counters);
            const uint64_t codes = (uint64_t)((rows[i] == 1 ? KV_HEADS : HEADS) * KEYS * MOST_DIM);
            const uint64_t bytes = codes * (uint64_t)bits_of(formats[f]) / 8;
            CHECK(counters.buffer_bytes_loaded[MFA_BUFFER_KEY] == bytes);
            CHECK(counters.buffer_bytes_loaded[MFA_BUFFER_VALUE] == bytes);
            /* Keys and values share theirs: one for a piece, or for each of the four lanes that have a row. */
            const uint64_t scales = counters.buffer_bytes_loaded[MFA_BUFFER_KEY_SCALES];
            const uint64_t pieces = 2 * codes / (rows[i] == 1 ? MOST_DIM / 4 : MFA_CODES_VECTOR);
            CHECK(scales == (is_coded ? pieces * sizeof(float) : 0));
        }
}

/* ------------------------------------------------------------------ memory that only the GPU reaches */

/* In the emulator a GPU address is one of the process, private storage or not. */
static mfa_buffer_t private_buffer(const void *content, size_t bytes) {
    id<MTLBuffer> memory = [device newBufferWithLength:bytes options:MTLResourceStorageModePrivate];
    memcpy((void *)[memory gpuAddress], content, bytes);
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_buffer_from_mtl_buffer(context, memory, &buffer) == MFA_SUCCESS);
    CHECK(mfa_buffer_contents(buffer) == NULL);
    [memory release];
    return buffer;
}

static void open_private(arrays_t *a) {
    a->private_scales = private_buffer(a->scales, sizeof a->scales);
    a->private_zero_points = private_buffer(a->zero_points, sizeof a->zero_points);
    a->private_mean = private_buffer(a->mean, sizeof a->mean);
}

static void close_private(arrays_t *a) {
    mfa_destroy_buffer(a->private_scales);
    mfa_destroy_buffer(a->private_zero_points);
    mfa_destroy_buffer(a->private_mean);
    a->private_scales = a->private_zero_points = a->private_mean = NULL;
}

static const case_t cases[] = {{MOST_ROWS, MOST_DIM, MFA_PRECISION_INT8, 1, GROUP, true, true},
                               {1, MOST_DIM, MFA_PRECISION_UINT4, 16, 0, true, false},
                               {1, 7, MFA_PRECISION_INT4, 3, 1, false, true},
                               {MOST_ROWS, 7, MFA_PRECISION_INT4, 0, 0, true, true}};
enum { CASES = sizeof cases / sizeof *cases };

static void test_private(const case_t *c, arrays_t *a) {
    float expected[FLOATS];
    CHECK(attend(c, a, a->key) == MFA_SUCCESS);
    memcpy(expected, a->out, sizeof expected);
    open_private(a);
    memset(a->out, 0, sizeof a->out);
    CHECK(attend(c, a, a->key) == MFA_SUCCESS);
    CHECK(memcmp(a->out, expected, (size_t)(HEADS * c->rows * c->dim) * sizeof(float)) == 0);
    close_private(a);
}

static void test_hostile(const case_t *c, arrays_t *a) {
    arrays_t *hostile = malloc(sizeof *hostile);
    *hostile = *a;
    memset(hostile->scales, 0xff, sizeof hostile->scales);
    memset(hostile->zero_points, 0x80, sizeof hostile->zero_points);
    memset(hostile->mean, 0x7f, sizeof hostile->mean);
    open_private(hostile);
    CHECK(attend(c, hostile, hostile->key) == MFA_SUCCESS);
    close_private(hostile);
    free(hostile);
}

/* ------------------------------------------------------------------ copies */

/* Between pages that nobody may touch, memory cannot be wrapped. */
static void test_copies(const case_t *c, arrays_t *a) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (sizeof a->key + page - 1) / page * page;
    char *pages = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
    CHECK(pages != MAP_FAILED && mprotect(pages + page, inside, PROT_READ | PROT_WRITE) == 0);
    memcpy(pages + page, a->key, sizeof a->key);
    float expected[FLOATS];
    CHECK(attend(c, a, a->key) == MFA_SUCCESS);
    memcpy(expected, a->out, sizeof expected);
    memset(a->out, 0, sizeof a->out);
    CHECK(attend(c, a, pages + page) == MFA_SUCCESS);
    CHECK(memcmp(a->out, expected, (size_t)(HEADS * c->rows * c->dim) * sizeof(float)) == 0);
    munmap(pages, inside + 2 * page);
}

static void open_context(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
}

int main(void) {
    @autoreleasepool {
        device = MTLCreateSystemDefaultDevice();
        arrays_t *arrays = calloc(1, sizeof *arrays);
        fill(arrays);
        open_context();
        for (int i = 0; i < CASES; ++i) {
            test_private(&cases[i], arrays);
            test_copies(&cases[i], arrays);
        }
        mfa_destroy_context(context);

        setenv("METAL_EMULATOR_MODE", "checked", 1);
        open_context();
        test_bytes(arrays);
        for (int i = 0; i < CASES; ++i)
            test_hostile(&cases[i], arrays);
        mfa_destroy_context(context);
        free(arrays);
        [device release];
    }
    return check_report();
}

/* Codes against the definition for every instance of the kernels that this machine has, alone and by several threads;
   then new rows of a cache, and gradients, with them. Memory is no more than each operand needs, so that a sanitizer sees
   who reads or writes past the end. */
#include "check.h"
#include "mfa_rules.h"
#include "tensors.h"

typedef struct {
    int32_t precision, scale_precision, zero_precision; /* of zero points; MFA_PRECISION_DEFAULT: none */
    int64_t rows, columns;
    bool shared_batch, shared_head, mean, heads_inside;
} coding_t;

typedef struct {
    mfa_tensor_t codes, scales, zero_points, mean;
    mfa_quantization_t quantization;
} coded_t;

static int bits_of(int32_t precision) {
    return precision == MFA_PRECISION_INT4 || precision == MFA_PRECISION_UINT4 ? 4 : 8;
}
static int lowest_of(int32_t precision) {
    return precision == MFA_PRECISION_INT8 ? -128 : precision == MFA_PRECISION_INT4 ? -8 : 0;
}

static mfa_tensor_t make(int32_t precision, int64_t b, int64_t h, int64_t n, int64_t d, int64_t element_bits,
                         bool heads_inside) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    const int64_t line = element_bits == 4 ? d + d % 2 : d;
    const int64_t shape[4] = {b, h, n, d},
                  stride[4] = {h * n * line, heads_inside ? line : n * line, heads_inside ? h * line : line, 1};
    memcpy(tensor.shape, shape, sizeof shape);
    memcpy(tensor.stride, stride, sizeof stride);
    tensor.precision = precision;
    const size_t bytes = (size_t)(b * h * n * line * element_bits / 8);
    tensor.data = malloc(bytes > 0 ? bytes : 1);
    memset(tensor.data, 0x55, bytes);
    return tensor;
}

static int64_t parts(int64_t count, int64_t shared) { return shared == 0 ? 1 : (count + shared - 1) / shared; }

/* What each operand points to stays where it is: `coded` is not copied. */
static void make_coded(const coding_t *c, int64_t b, int64_t h, int64_t n, int64_t d, coded_t *coded) {
    const int64_t sb = c->shared_batch ? 1 : b, sh = c->shared_head ? 1 : h;
    const int64_t lines = parts(n, c->rows), groups = parts(d, c->columns);
    const int zero_bits = c->zero_precision == MFA_PRECISION_INT32 ? 32 : 8;
    coded->codes = make(c->precision, b, h, n, d, bits_of(c->precision), c->heads_inside);
    coded->scales =
        make(c->scale_precision, sb, sh, lines, groups, c->scale_precision == MFA_PRECISION_FP16 ? 16 : 32, false);
    coded->zero_points = make(c->zero_precision, sb, sh, lines, groups, zero_bits, false);
    coded->mean = make(MFA_PRECISION_FP32, sb, sh, 1, d, 32, false);
    coded->quantization = (mfa_quantization_t)MFA_QUANTIZATION_INIT;
    coded->quantization.rows = c->rows;
    coded->quantization.columns = c->columns;
    coded->quantization.scales = &coded->scales;
    coded->quantization.zero_points = c->zero_precision == MFA_PRECISION_DEFAULT ? NULL : &coded->zero_points;
    coded->quantization.mean = c->mean ? &coded->mean : NULL;
}

static void free_coded(coded_t *coded) {
    free(coded->codes.data), free(coded->scales.data), free(coded->zero_points.data), free(coded->mean.data);
}

static int64_t at(const mfa_tensor_t *t, int64_t b, int64_t h, int64_t n, int64_t d) {
    return (t->shape[0] == 1 ? 0 : b) * t->stride[0] + (t->shape[1] == 1 ? 0 : h) * t->stride[1] + n * t->stride[2] +
           d * t->stride[3];
}

static float number_at(const mfa_tensor_t *t, int64_t element) {
    switch (t->precision) {
    case MFA_PRECISION_INT8:
        return ((const int8_t *)t->data)[element];
    case MFA_PRECISION_UINT8:
        return ((const uint8_t *)t->data)[element];
    case MFA_PRECISION_INT32:
        return (float)((const int32_t *)t->data)[element];
    case MFA_PRECISION_INT4:
    case MFA_PRECISION_UINT4: {
        const int code = ((const uint8_t *)t->data)[element / 2] >> (element % 2 * 4) & 15;
        return (float)(t->precision == MFA_PRECISION_INT4 && code > 7 ? code - 16 : code);
    }
    default:
        return load(t->precision, t->data, element);
    }
}

static int64_t group_of(int64_t i, int64_t shared) { return shared == 0 ? 0 : i / shared; }

/* The i of that group, of `size`. */
static mfa_span those_of(int64_t group, int64_t shared, int64_t size) {
    const mfa_span all = mfa_span_of(0, size);
    return shared == 0 ? all : mfa_span_cut(all, mfa_span_of(group * shared, (group + 1) * shared));
}

static float real_at(const coded_t *coded, int64_t b, int64_t h, int64_t n, int64_t d) {
    const mfa_quantization_t *q = &coded->quantization;
    const int64_t line = group_of(n, q->rows), group = group_of(d, q->columns);
    const float code = number_at(&coded->codes, at(&coded->codes, b, h, n, d));
    const float zero =
        q->zero_points != NULL ? number_at(&coded->zero_points, at(&coded->zero_points, b, h, line, group)) : 0;
    return (code - zero) * number_at(&coded->scales, at(&coded->scales, b, h, line, group));
}

/* Centred values, (b, h, n, d), by the mean that was found. */
static float value_at(const mfa_tensor_t *input, const coded_t *coded, int64_t b, int64_t h, int64_t n, int64_t d) {
    const float x = load(input->precision, input->data, at(input, b, h, n, d));
    return coded->quantization.mean == NULL ? x : x - ((const float *)coded->mean.data)[at(&coded->mean, b, h, 0, d)];
}

/* Whether all scales, zero points and codes are those of the definition. */
static bool is_defined(const mfa_tensor_t *input, const coded_t *coded) {
    const mfa_quantization_t *q = &coded->quantization;
    const int64_t *size = input->shape, *shape = coded->scales.shape;
    const int32_t precision = coded->codes.precision;
    const int levels = 1 << bits_of(precision);
    const bool symmetric = q->zero_points == NULL;
    const float lowest = (float)(symmetric ? 1 - levels / 2 : lowest_of(precision));
    const float highest = symmetric ? -lowest : lowest + (float)levels - 1;
    bool right = true;
    for (int64_t sb = 0; sb < shape[0]; ++sb)
        for (int64_t sh = 0; sh < shape[1]; ++sh)
            for (int64_t line = 0; line < shape[2]; ++line)
                for (int64_t group = 0; group < shape[3]; ++group) {
                    float low = 0, high = 0;
                    const mfa_span batches = those_of(sb, shape[0] > 1, size[0]),
                                   heads = those_of(sh, shape[1] > 1, size[1]);
                    const mfa_span rows = those_of(line, q->rows, size[2]),
                                   columns = those_of(group, q->columns, size[3]);
                    for (int64_t b = batches.begin; b < batches.end; ++b)
                        for (int64_t h = heads.begin; h < heads.end; ++h)
                            for (int64_t n = rows.begin; n < rows.end; ++n)
                                for (int64_t d = columns.begin; d < columns.end; ++d) {
                                    low = fminf(low, value_at(input, coded, b, h, n, d));
                                    high = fmaxf(high, value_at(input, coded, b, h, n, d));
                                }
                    float scale = symmetric ? fmaxf(-low, high) / highest : (high - low) / (float)(levels - 1);
                    if (low == 0 && high == 0)
                        scale = 1;
                    if (coded->scales.precision == MFA_PRECISION_FP16)
                        scale = fmaxf(mfai_f16_to_f32(mfai_f32_to_f16(scale)), 0x1p-14f);
                    const int64_t cell = at(&coded->scales, sb, sh, line, group);
                    right &= number_at(&coded->scales, cell) == fmaxf(scale, 0x1p-126f);
                    if (!symmetric)
                        right &= number_at(&coded->zero_points, cell) ==
                                 fminf(fmaxf(rintf(lowest - low / scale), lowest), highest);
                }
    for (int64_t b = 0; b < size[0]; ++b)
        for (int64_t h = 0; h < size[1]; ++h)
            for (int64_t n = 0; n < size[2]; ++n) {
                for (int64_t d = 0; d < size[3]; ++d) {
                    const int64_t cell = at(&coded->scales, b, h, group_of(n, q->rows), group_of(d, q->columns));
                    const float zero = symmetric ? 0 : number_at(&coded->zero_points, cell);
                    const float code =
                        rintf(value_at(input, coded, b, h, n, d) / number_at(&coded->scales, cell)) + zero;
                    right &=
                        number_at(&coded->codes, at(&coded->codes, b, h, n, d)) == fminf(fmaxf(code, lowest), highest);
                }
                if (bits_of(precision) == 4 && size[3] % 2 == 1)
                    right &= number_at(&coded->codes, at(&coded->codes, b, h, n, size[3])) == 0;
            }
    return right;
}

static mfa_status_t quantise(mfa_context_t context, const mfa_tensor_t *input, coded_t *coded, uint32_t flags) {
    mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
    desc.flags = flags;
    desc.input = input;
    desc.codes = &coded->codes;
    desc.quantization = &coded->quantization;
    return mfa_quantize(context, &desc);
}

static mfa_tensor_t random_input(int32_t precision, int64_t b, int64_t h, int64_t n, int64_t d, float size,
                                 bool heads_inside) {
    mfa_tensor_t input = make(precision, b, h, n, d, precision == MFA_PRECISION_FP32 ? 32 : 16, heads_inside);
    for (int64_t i = 0; i < b * h * n * d; ++i)
        store(precision, input.data, i, (random_float() + 0.25f) * size);
    return input;
}

static int64_t any_of(int count, const int64_t *values) { return values[rand() % count]; }
#define ANY(...) any_of(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (int64_t[]){__VA_ARGS__})

static coding_t random_coding(void) {
    coding_t c = {.precision =
                      (int32_t)ANY(MFA_PRECISION_INT8, MFA_PRECISION_UINT8, MFA_PRECISION_INT4, MFA_PRECISION_UINT4),
                  .scale_precision = (int32_t)ANY(MFA_PRECISION_FP32, MFA_PRECISION_FP16),
                  .zero_precision = MFA_PRECISION_DEFAULT,
                  .rows = ANY(0, 1, 3, 32, 5000),
                  .columns = ANY(0, 1, 32, 64),
                  .shared_batch = rand() % 2,
                  .shared_head = rand() % 2,
                  .mean = rand() % 3 == 0,
                  .heads_inside = rand() % 2};
    const bool is_signed = lowest_of(c.precision) < 0;
    if (!is_signed || rand() % 2)
        c.zero_precision = (int32_t)ANY(MFA_PRECISION_INT32, is_signed ? MFA_PRECISION_INT8 : MFA_PRECISION_UINT8);
    return c;
}

static bool are_same(const mfa_tensor_t *a, const mfa_tensor_t *b, size_t bytes) {
    return memcmp(a->data, b->data, bytes) == 0;
}

static void test_quantise(mfa_context_t alone, mfa_context_t several) {
    for (int round = 0; round < 60; ++round) {
        const coding_t c = random_coding();
        const int64_t b = ANY(1, 2), h = ANY(1, 3), n = ANY(1, 2, 40, 700), d = ANY(1, 7, 33, 64);
        const int32_t precision = (int32_t)ANY(MFA_PRECISION_FP32, MFA_PRECISION_FP16, MFA_PRECISION_BF16);
        mfa_tensor_t input = random_input(precision, b, h, n, d, (float)ANY(1, 1, 100, 0), rand() % 2);
        coded_t coded, again;
        make_coded(&c, b, h, n, d, &coded);
        make_coded(&c, b, h, n, d, &again);
        CHECK(quantise(alone, &input, &coded, 0) == MFA_SUCCESS);
        CHECK(quantise(several, &input, &again, 0) == MFA_SUCCESS);
        CHECK(is_defined(&input, &coded));
        CHECK(are_same(&coded.codes, &again.codes, (size_t)(b * h * n * (d / 2))));
        CHECK(!c.mean || are_same(&coded.mean, &again.mean, sizeof(float)));
        /* With what was found, the same comes out. */
        memset(again.codes.data, 0x11, (size_t)(b * h * n * (d / 2)));
        CHECK(quantise(several, &input, &again, MFA_QUANTIZE_STATIC) == MFA_SUCCESS);
        CHECK(is_defined(&input, &again));
        free(input.data), free_coded(&coded), free_coded(&again);
    }
}

static void test_mean(mfa_context_t context) {
    enum { N = 3000, D = 20 };
    coding_t c = {.precision = MFA_PRECISION_INT8,
                  .scale_precision = MFA_PRECISION_FP32,
                  .zero_precision = MFA_PRECISION_DEFAULT,
                  .mean = true};
    mfa_tensor_t input = random_input(MFA_PRECISION_FP32, 1, 1, N, D, 1, false);
    coded_t coded;
    make_coded(&c, 1, 1, N, D, &coded);
    float *x = input.data;
    x[5 * D + 2] = NAN, x[2999 * D + 3] = INFINITY; /* are left out */
    CHECK(quantise(context, &input, &coded, MFA_QUANTIZE_SATURATE) == MFA_SUCCESS);
    for (int d = 0; d < D; ++d) {
        double sum = 0;
        int count = 0;
        for (int n = 0; n < N; ++n)
            if (isfinite(x[n * D + d]))
                sum += x[n * D + d], ++count;
        CHECK(fabs(((float *)coded.mean.data)[d] - sum / count) <= 1e-7);
    }
    CHECK(number_at(&coded.codes, 5 * D + 2) == 0 && number_at(&coded.codes, 2999 * D + 3) == 127);
    free(input.data), free_coded(&coded);
}

/* A cache whose rows are all new has what the quantiser makes of them. */
static void test_append(mfa_context_t context) {
    for (int round = 0; round < 20; ++round) {
        coding_t c = random_coding();
        c.rows = 1;
        c.shared_batch = c.shared_head = c.mean = false;
        const int64_t n = ANY(1, 9, 70), d = ANY(7, 33, 64);
        const int32_t precision = (int32_t)ANY(MFA_PRECISION_FP32, MFA_PRECISION_FP16, MFA_PRECISION_BF16);
        mfa_tensor_t rows = random_input(precision, 2, 3, n, d, 1, rand() % 2);
        mfa_tensor_t out = random_input(precision, 2, 3, n, d, 1, false);
        coded_t key, value, expected;
        make_coded(&c, 2, 3, n, d, &key);
        make_coded(&c, 2, 3, n, d, &value);
        make_coded(&c, 2, 3, n, d, &expected);
        int32_t none[2] = {0, 0};
        mfa_tensor_t lengths = make(MFA_PRECISION_INT32, 1, 1, 1, 2, 32, false);
        memcpy(lengths.data, none, sizeof none);
        mfa_sequences_t sequences = MFA_SEQUENCES_INIT;
        sequences.key_lengths = &lengths;
        mfa_append_t append = MFA_APPEND_INIT;
        append.key = append.value = &rows;
        mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
        desc.query = &rows;
        desc.key = &key.codes;
        desc.value = &value.codes;
        desc.out = &out;
        desc.sequences = &sequences;
        desc.append = &append;
        desc.key_quantization = &key.quantization;
        desc.value_quantization = &value.quantization;
        CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS);
        CHECK(quantise(context, &rows, &expected, MFA_QUANTIZE_SATURATE) == MFA_SUCCESS);
        CHECK(is_defined(&rows, &key) && is_defined(&rows, &value));
        CHECK(are_same(&key.codes, &expected.codes, (size_t)(6 * n * (d / 2))));
        free(rows.data), free(out.data), free(lengths.data);
        free_coded(&key), free_coded(&value), free_coded(&expected);
    }
}

/* Gradients of float32 queries have the bits of the call with what the codes stand for. */
static void test_backward(mfa_context_t context) {
    enum { H = 2 };
    for (int round = 0; round < 20; ++round) {
        coding_t c = random_coding();
        c.mean = false;
        const int64_t nq = ANY(1, 30, 110), nkv = ANY(1, 50, 420), d = ANY(7, 33, 64);
        mfa_tensor_t tensors[5], real[2], out = random_input(MFA_PRECISION_FP32, 1, H, nq, d, 1, false);
        mfa_tensor_t query = random_input(MFA_PRECISION_FP32, 1, H, nq, d, 1, false);
        mfa_tensor_t lse = random_input(MFA_PRECISION_FP32, 1, H, nq, 1, 1, false);
        coded_t coded[2];
        for (int i = 0; i < 2; ++i) {
            real[i] = random_input(MFA_PRECISION_FP32, 1, H, nkv, d, 1, false);
            make_coded(&c, 1, H, nkv, d, &coded[i]);
            CHECK(quantise(context, &real[i], &coded[i], 0) == MFA_SUCCESS);
            for (int64_t h = 0; h < H; ++h)
                for (int64_t n = 0; n < nkv; ++n)
                    for (int64_t column = 0; column < d; ++column)
                        ((float *)real[i].data)[at(&real[i], 0, h, n, column)] = real_at(&coded[i], 0, h, n, column);
        }
        for (int i = 0; i < 5; ++i)
            tensors[i] = random_input(MFA_PRECISION_FP32, 1, H, i == 0 || i == 3 ? nq : nkv, d, 1, false);
        mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
        desc.query = &query;
        desc.key = &real[0];
        desc.value = &real[1];
        desc.out = &out;
        desc.logsumexp = &lse;
        CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS);
        mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
        backward.forward = &desc;
        backward.dout = &query;
        backward.dquery = &tensors[0];
        backward.dkey = &tensors[1];
        backward.dvalue = &tensors[2];
        CHECK(mfa_attention_backward_desc(context, &backward) == MFA_SUCCESS);
        desc.key = &coded[0].codes;
        desc.value = &coded[1].codes;
        desc.key_quantization = &coded[0].quantization;
        desc.value_quantization = &coded[1].quantization;
        backward.dquery = &tensors[3];
        backward.dkey = &tensors[4];
        backward.dvalue = NULL;
        CHECK(mfa_attention_backward_desc(context, &backward) == MFA_SUCCESS);
        CHECK(are_same(&tensors[0], &tensors[3], (size_t)(H * nq * d) * sizeof(float)));
        CHECK(are_same(&tensors[1], &tensors[4], (size_t)(H * nkv * d) * sizeof(float)));
        backward.flags = MFA_BACKWARD_ZERO_CLIPPED;
        CHECK(mfa_attention_backward_desc(context, &backward) == MFA_SUCCESS);
        for (int i = 0; i < 5; ++i)
            free(tensors[i].data);
        for (int i = 0; i < 2; ++i)
            free(real[i].data), free_coded(&coded[i]);
        free(out.data), free(query.data), free(lse.data);
    }
}

static mfa_context_t open_context(int32_t isa, int32_t threads) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.cpu_isa = isa;
    options.num_threads = threads;
    mfa_context_t context = NULL;
    return mfa_create_context_with_options(&options, &context) == MFA_SUCCESS ? context : NULL;
}

int main(void) {
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_t alone = open_context(isa, 1), several = open_context(isa, 3);
        if (alone == NULL)
            continue;
        test_quantise(alone, several);
        test_mean(several);
        test_append(several);
        test_backward(several);
        mfa_destroy_context(alone);
        mfa_destroy_context(several);
    }
    return check_report();
}

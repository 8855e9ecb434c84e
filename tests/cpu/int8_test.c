/* Products of codes in integers, for every instance of the kernels this machine has: near what codes stand for, and no
   byte read beyond them, which a sanitizer sees since tensors are no larger than they need be. */
#include "check.h"
#include "tensors.h"

enum { H = 4, HKV = 2 };

static mfa_tensor_t tensor_of(int32_t precision, int64_t rows, int64_t columns, size_t bytes) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.precision = precision;
    const int64_t row = precision == MFA_PRECISION_INT4 ? (columns + 1) / 2 * 2 : columns;
    const int64_t shape[4] = {1, HKV, rows, columns}, stride[4] = {HKV * rows * row, rows * row, row, 1};
    memcpy(tensor.shape, shape, sizeof shape);
    memcpy(tensor.stride, stride, sizeof stride);
    tensor.data = malloc(bytes > 0 ? bytes : 1);
    return tensor;
}

/* Codes, one scale for each row, and what they stand for in `reals`. */
static mfa_tensor_t random_codes(int32_t precision, int64_t rows, int64_t columns, mfa_tensor_t *scales,
                                 double *reals) {
    const bool halved = precision == MFA_PRECISION_INT4;
    const int64_t bytes = halved ? (columns + 1) / 2 : columns;
    mfa_tensor_t codes = tensor_of(precision, rows, columns, (size_t)(HKV * rows * bytes));
    *scales = tensor_of(MFA_PRECISION_FP32, rows, 1, (size_t)(HKV * rows) * sizeof(float));
    for (int64_t i = 0; i < HKV * rows; ++i) {
        const float scale = (1.5f + random_float()) / (halved ? 7 : 127);
        ((float *)scales->data)[i] = scale;
        memset((char *)codes.data + i * bytes, 0, (size_t)bytes);
        for (int64_t c = 0; c < columns; ++c) {
            const int code = (int)(random_float() * (halved ? 7 : 127));
            if (halved)
                ((uint8_t *)codes.data)[i * bytes + c / 2] |= (uint8_t)((code & 15) << (c % 2 * 4));
            else
                ((int8_t *)codes.data)[i * bytes + c] = (int8_t)code;
            reals[i * columns + c] = (double)scale * code;
        }
    }
    return codes;
}

/* The relative L2 error of `out`. */
static double error_of(const mfa_tensor_t *q, const double *key, const double *value, const mfa_tensor_t *out,
                       int64_t keys) {
    const int64_t rows = q->shape[2], dim = q->shape[3], value_dim = out->shape[3];
    double wrong = 0, all = 0, *weights = malloc((size_t)keys * sizeof *weights);
    for (int64_t h = 0; h < H; ++h)
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t first = h / (H / HKV) * keys;
            double sum = 0;
            for (int64_t j = 0; j < keys; ++j) {
                double score = 0;
                for (int64_t d = 0; d < dim; ++d)
                    score += at3(q, h, i, d) * key[(first + j) * dim + d];
                sum += weights[j] = exp(score / sqrt((double)dim));
            }
            for (int64_t c = 0; c < value_dim; ++c) {
                double expected = 0;
                for (int64_t j = 0; j < keys; ++j)
                    expected += weights[j] / sum * value[(first + j) * value_dim + c];
                const double error = at3(out, h, i, c) - expected;
                wrong += error * error;
                all += expected * expected;
            }
        }
    free(weights);
    return sqrt(wrong / all);
}

static void test_case(mfa_context_t context, int32_t precision, int64_t rows, int64_t keys, int64_t dim,
                      int64_t value_dim) {
    double *key = malloc((size_t)(HKV * keys * dim) * sizeof *key);
    double *value = malloc((size_t)(HKV * keys * value_dim) * sizeof *value);
    mfa_tensor_t key_scales, value_scales, q = random_tensor(MFA_PRECISION_FP32, H, rows, dim);
    mfa_tensor_t k = random_codes(precision, keys, dim, &key_scales, key);
    mfa_tensor_t v = random_codes(precision, keys, value_dim, &value_scales, value);
    mfa_tensor_t out = random_tensor(MFA_PRECISION_FP32, H, rows, value_dim);
    mfa_quantization_t of_key = MFA_QUANTIZATION_INIT, of_value = MFA_QUANTIZATION_INIT;
    of_key.rows = of_value.rows = 1;
    of_key.scales = &key_scales;
    of_value.scales = &value_scales;
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &q;
    desc.key = &k;
    desc.value = &v;
    desc.out = &out;
    desc.key_quantization = &of_key;
    desc.value_quantization = &of_value;
    desc.compute_mode = MFA_COMPUTE_INT8;
    CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS);
    const double error = error_of(&q, key, value, &out, keys);
    CHECK(error < 0.03);
    if (!(error < 0.03))
        fprintf(stderr, "precision %d, %d rows, %d keys, head dims %d and %d: error %g\n", (int)precision, (int)rows,
                (int)keys, (int)dim, (int)value_dim, error);
    mfa_tensor_t *const tensors[] = {&q, &k, &v, &out, &key_scales, &value_scales};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; ++i)
        free(tensors[i]->data);
    free(key);
    free(value);
}

int main(void) {
    static const int64_t dims[][2] = {{64, 64}, {128, 128}, {33, 70}, {1, 1}, {7, 130}};
    static const int64_t key_counts[] = {1, 5, 33, 127, 130, 600};
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        mfa_context_t context;
        if (mfa_create_context_with_options(&options, &context) != MFA_SUCCESS)
            continue;
        for (size_t d = 0; d < sizeof dims / sizeof *dims; ++d)
            for (size_t n = 0; n < sizeof key_counts / sizeof *key_counts; ++n)
                for (int64_t rows = 1; rows <= 30; rows += 29) { /* codes where they lie, and packed */
                    test_case(context, MFA_PRECISION_INT8, rows, key_counts[n], dims[d][0], dims[d][1]);
                    test_case(context, MFA_PRECISION_INT4, rows, key_counts[n], dims[d][0], dims[d][1]);
                }
        mfa_destroy_context(context);
    }
    return check_report();
}

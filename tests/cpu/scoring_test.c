/* What scores are made of beside queries and keys: products of query_value with values, and factors of stored queries,
   keys and values. Every instance of the kernels, against the definition. */
#include "check.h"
#include "tensors.h"

enum { B = 2, H = 6, HKV = 2 };

enum {
    QUERY_VALUE = 1 << 0,
    QUERY_SCALE = 1 << 1,
    KEY_SCALE = 1 << 2,
    VALUE_SCALE = 1 << 3,
    CAUSAL = 1 << 4,
    SOFTCAP = 1 << 5,
    SINKS = 1 << 6,
    MASK = 1 << 7,
    APART = 1 << 8, /* elements of values and query_value */
    NEGATIVE = 1 << 9,
    FEATURES = 1 << 10
};

typedef struct {
    int32_t precision;
    int64_t queries, keys, dim, value_dim;
    int features;
} case_t;

static mfa_tensor_t make(int32_t precision, int64_t batch, int64_t heads, int64_t rows, int64_t columns,
                         int64_t apart) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.precision = precision;
    const int64_t shape[4] = {batch, heads, rows, columns};
    int64_t count = apart;
    for (int axis = 3; axis >= 0; --axis) {
        tensor.shape[axis] = shape[axis];
        tensor.stride[axis] = count;
        count *= shape[axis];
    }
    tensor.data = malloc((size_t)count * (precision == MFA_PRECISION_FP32 ? 4 : 2));
    for (int64_t i = 0; i < count; ++i)
        store(precision, tensor.data, i, random_float());
    return tensor;
}

/* Along an axis of size 1, its only element. */
static double at4(const mfa_tensor_t *t, int64_t b, int64_t h, int64_t row, int64_t column) {
    const int64_t index[4] = {b, h, row, column};
    int64_t at = 0;
    for (int axis = 0; axis < 4; ++axis)
        at += t->shape[axis] == 1 ? 0 : index[axis] * t->stride[axis];
    return load(t->precision, t->data, at);
}

static double factor(const mfa_tensor_t *t, int64_t b, int64_t h) { return t != NULL ? at4(t, b, h, 0, 0) : 1; }

static void check(const mfa_attention_desc_t *desc, double tolerance) {
    const mfa_tensor_t *q = desc->query, *k = desc->key, *v = desc->value, *qv = desc->query_value;
    const int64_t nq = q->shape[2], nkv = k->shape[2];
    const double columns = (double)(q->shape[3] + (qv != NULL ? v->shape[3] : 0));
    double worst = 0, worst_lse = 0, *weights = malloc((size_t)nkv * sizeof *weights);
    for (int64_t at = 0; at < B * H * nq; ++at) {
        const int64_t b = at / nq / H, h = at / nq % H, i = at % nq, kv = h / (H / HKV);
        const int64_t past = i + nkv - nq + 1, seen = desc->flags & MFA_ATTENTION_CAUSAL && past < nkv ? past : nkv;
        const mfa_scales_t *s = desc->scales;
        const double scale = (desc->softmax_scale != 0 ? desc->softmax_scale : 1 / sqrt(columns)) *
                             (s != NULL ? factor(s->query, b, kv) * factor(s->key, b, kv) : 1);
        double sum = desc->sinks != NULL ? exp(at4(desc->sinks, 0, h, 0, 0)) : 0;
        for (int64_t j = 0; j < seen; ++j) {
            double score = 0;
            for (int64_t d = 0; d < q->shape[3]; ++d)
                score += at4(q, b, h, i, d) * at4(k, b, kv, j, d);
            for (int64_t d = 0; qv != NULL && d < v->shape[3]; ++d)
                score += at4(qv, b, h, i, d) * at4(v, b, kv, j, d);
            score *= scale;
            if (desc->softcap > 0)
                score = desc->softcap * tanh(score / desc->softcap);
            if (desc->additive_mask != NULL)
                score += at4(desc->additive_mask, b, h, i, j);
            sum += weights[j] = exp(score);
        }
        for (int64_t d = 0; d < v->shape[3]; ++d) {
            double total = 0;
            for (int64_t j = 0; j < seen; ++j)
                total += weights[j] * at4(v, b, kv, j, d);
            total *= s != NULL ? factor(s->value, b, kv) : 1;
            const double error = fabs(at4(desc->out, b, h, i, d) - (sum > 0 ? total / sum : 0));
            worst = error > worst || isnan(error) ? error : worst;
        }
        const double is = at4(desc->logsumexp, b, h, i, 0);
        const double error = is == log(sum) ? 0 : fabs(is - log(sum));
        worst_lse = error > worst_lse || isnan(error) ? error : worst_lse;
    }
    free(weights);
    CHECK(worst <= tolerance);
    CHECK(worst_lse <= 1e-5);
}

static void set_factors(mfa_tensor_t *t, const float *values) {
    for (int64_t i = 0; i < t->shape[0] * t->shape[1]; ++i)
        ((float *)t->data)[i] = values[i];
}

static void test_case(mfa_context_t context, const case_t *c) {
    static const double epsilon[] = {0x1p-11, 0x1p-8, 0x1p-24};
    static const float factors[4] = {1.5f, -0.75f, 0, 2}, more[2] = {-1.25f, 0.5f};
    const int64_t apart = c->features & APART ? 2 : 1;
    mfa_tensor_t q = make(c->precision, B, H, c->queries, c->dim, 1),
                 k = make(c->precision, B, HKV, c->keys, c->dim, 1);
    mfa_tensor_t v = make(c->precision, B, HKV, c->keys, c->value_dim, apart);
    mfa_tensor_t qv = make(c->precision, B, H, c->queries, c->value_dim, apart);
    mfa_tensor_t out = make(c->precision, B, H, c->queries, c->value_dim, 1);
    mfa_tensor_t logsumexp = make(MFA_PRECISION_FP32, B, H, c->queries, 1, 1);
    mfa_tensor_t mask = make(c->precision, 1, 1, c->queries, c->keys, 1),
                 sinks = make(MFA_PRECISION_FP32, 1, H, 1, 1, 1);
    mfa_tensor_t query_scale = make(MFA_PRECISION_FP32, B, HKV, 1, 1, 1),
                 key_scale = make(MFA_PRECISION_FP32, 1, HKV, 1, 1, 1),
                 value_scale = make(MFA_PRECISION_FP32, B, 1, 1, 1, 1);
    set_factors(&query_scale, factors), set_factors(&key_scale, more), set_factors(&value_scale, more);
    mfa_scales_t scales = MFA_SCALES_INIT;
    scales.query = c->features & QUERY_SCALE ? &query_scale : NULL;
    scales.key = c->features & KEY_SCALE ? &key_scale : NULL;
    scales.value = c->features & VALUE_SCALE ? &value_scale : NULL;
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &q;
    desc.key = &k;
    desc.value = &v;
    desc.out = &out;
    desc.logsumexp = &logsumexp;
    desc.query_value = c->features & QUERY_VALUE ? &qv : NULL;
    desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    desc.flags = c->features & CAUSAL ? MFA_ATTENTION_CAUSAL : 0;
    desc.softcap = c->features & SOFTCAP ? 0.7f : 0;
    desc.softmax_scale = c->features & NEGATIVE ? -0.4f : 0;
    desc.sinks = c->features & SINKS ? &sinks : NULL;
    desc.additive_mask = c->features & MASK ? &mask : NULL;
    desc.scales = c->features & (QUERY_SCALE | KEY_SCALE | VALUE_SCALE) ? &scales : NULL;
    CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS);
    check(&desc, (c->precision == MFA_PRECISION_FP32 ? 32 : 3) * epsilon[c->precision]);
    mfa_tensor_t *const all[] = {&q,    &k,     &v,           &qv,        &out,        &logsumexp,
                                 &mask, &sinks, &query_scale, &key_scale, &value_scale};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        free(all[i]->data);
}

static void test_instance(mfa_context_t context) {
    static const int64_t sizes[][4] = {
        {1, 70, 24, 40}, {3, 33, 17, 33}, {9, 61, 16, 64}, {2, 1100, 8, 3}, {20, 600, 5, 9}};
    for (int32_t precision = MFA_PRECISION_FP16; precision <= MFA_PRECISION_FP32; ++precision)
        for (size_t size = 0; size < sizeof sizes / sizeof *sizes; ++size)
            for (int round = 0; round < 6; ++round) {
                const int features = rand() % FEATURES | (round < 2 ? QUERY_VALUE : 0) | (round == 2 ? QUERY_SCALE : 0);
                const case_t c = {precision, sizes[size][0], sizes[size][1], sizes[size][2], sizes[size][3], features};
                test_case(context, &c);
            }
}

int main(void) {
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        mfa_context_t context = NULL;
        if (mfa_create_context_with_options(&options, &context) == MFA_SUCCESS)
            test_instance(context);
        mfa_destroy_context(context);
    }
    return check_report();
}

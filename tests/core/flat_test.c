/* The simple tier against the definition, for every instance of the kernels this machine has. */
#include "check.h"
#include "naive_gradients.h"

enum { B = 2, H = 3, D = 20 };

/* Packed (batch, heads, seq, dim) into one of the layouts of the flat calls. */
static int64_t place(bool transposed, int64_t seq, int64_t b, int64_t h, int64_t n, int64_t d) {
    return transposed ? ((b * H + h) * D + d) * seq + n : ((b * seq + n) * H + h) * D + d;
}

static mfa_buffer_t laid_out(mfa_context_t context, const float *packed, int64_t seq, bool transposed) {
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_buffer(context, (size_t)(B * H * seq * D) * sizeof(float), &buffer) == MFA_SUCCESS);
    float *to = mfa_buffer_contents(buffer);
    for (int64_t i = 0; packed != NULL && i < B * H * seq * D; ++i)
        to[place(transposed, seq, i / (H * seq * D), i / (seq * D) % H, i / D % seq, i % D)] = packed[i];
    return buffer;
}

static void test_layouts(mfa_context_t context, uint32_t nq, uint32_t nkv, bool causal) {
    float *q = random_floats(B * H * nq * D), *k = random_floats(B * H * nkv * D), *v = random_floats(B * H * nkv * D);
    float *out = random_floats(B * H * nq * D), *logsumexp = random_floats(B * H * nq),
          *found = random_floats(B * H * nq * D);
    naive_attention(q, k, v, B * H, nq, nkv, D, 0.3, causal, out, logsumexp);
    for (int layout = 0; layout < 16; ++layout) {
        const bool tq = layout & 1, tk = layout & 2, tv = layout & 4, to = layout & 8;
        mfa_buffer_t bq = laid_out(context, q, nq, tq), bk = laid_out(context, k, nkv, tk),
                     bv = laid_out(context, v, nkv, tv);
        mfa_buffer_t bo = laid_out(context, NULL, nq, to), bl = NULL;
        CHECK(mfa_create_buffer(context, B * H * nq * sizeof(float), &bl) == MFA_SUCCESS);
        CHECK(mfa_attention_forward_with_lse(context, bq, bk, bv, bo, bl, B, nq, nkv, H, D, 0.3f, causal, 2, 2, 2, tq,
                                             tk, tv, to) == MFA_SUCCESS);
        const float *result = mfa_buffer_contents(bo);
        for (int64_t i = 0; i < B * H * nq * D; ++i)
            found[i] = result[place(to, nq, i / (H * nq * D), i / (nq * D) % H, i / D % nq, i % D)];
        CHECK(largest_difference(found, out, B * H * nq * D) < 1e-5);
        CHECK(largest_difference(mfa_buffer_contents(bl), logsumexp, B * H * nq) < 1e-5);
        memset(mfa_buffer_contents(bo), 0xff, mfa_buffer_size(bo));
        CHECK(mfa_attention_forward(context, bq, bk, bv, bo, B, nq, nkv, H, D, 0.3f, causal, 2, 2, 2, tq, tk, tv, to) ==
              MFA_SUCCESS);
        for (int64_t i = 0; i < B * H * nq * D; ++i)
            found[i] = result[place(to, nq, i / (H * nq * D), i / (nq * D) % H, i / D % nq, i % D)];
        CHECK(largest_difference(found, out, B * H * nq * D) < 1e-5);
        mfa_destroy_buffer(bq);
        mfa_destroy_buffer(bk);
        mfa_destroy_buffer(bv);
        mfa_destroy_buffer(bo);
        mfa_destroy_buffer(bl);
    }
    free(q), free(k), free(v), free(out), free(logsumexp), free(found);
}

/* All batches as heads of one. */
static mfa_tensor_t packed(float *data, int64_t rows, int64_t columns) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.data = data;
    tensor.shape[0] = 1;
    tensor.shape[1] = B * H;
    tensor.shape[2] = rows;
    tensor.shape[3] = columns;
    return tensor;
}

static bool holds(mfa_buffer_t buffer, bool transposed, int64_t seq, const double *expected) {
    const float *found = mfa_buffer_contents(buffer);
    double most = 0;
    for (int64_t i = 0; i < B * H * seq * D; ++i) {
        const double difference =
            found[place(transposed, seq, i / (H * seq * D), i / (seq * D) % H, i / D % seq, i % D)] - expected[i];
        most = fabs(difference) > most || isnan(difference) ? fabs(difference) : most;
    }
    return most < 2e-5;
}

static void test_gradient_layouts(mfa_context_t context, uint32_t nq, uint32_t nkv, bool causal) {
    float *q = random_floats(B * H * nq * D), *k = random_floats(B * H * nkv * D), *v = random_floats(B * H * nkv * D);
    float *dout = random_floats(B * H * nq * D);
    const mfa_tensor_t query = packed(q, nq, D), key = packed(k, nkv, D), value = packed(v, nkv, D),
                       gradient = packed(dout, nq, D);
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &query;
    desc.key = &key;
    desc.value = &value;
    desc.softmax_scale = 0.3f;
    desc.flags = causal ? MFA_ATTENTION_CAUSAL : 0;
    naive_gradients_t g = naive_gradients(&desc, &gradient);
    for (int layout = 0; layout < 16; ++layout) {
        const bool tq = layout & 1, tk = layout & 2, tv = layout & 4, to = layout & 8;
        mfa_buffer_t bq = laid_out(context, q, nq, tq), bk = laid_out(context, k, nkv, tk),
                     bv = laid_out(context, v, nkv, tv), bd = laid_out(context, dout, nq, to);
        mfa_buffer_t bo = laid_out(context, NULL, nq, to), bl = NULL;
        mfa_buffer_t dq = laid_out(context, NULL, nq, tq), dk = laid_out(context, NULL, nkv, tk),
                     dv = laid_out(context, NULL, nkv, tv);
        memset(mfa_buffer_contents(dq), 0xff, mfa_buffer_size(dq));
        memset(mfa_buffer_contents(dk), 0xff, mfa_buffer_size(dk));
        memset(mfa_buffer_contents(dv), 0xff, mfa_buffer_size(dv));
        CHECK(mfa_create_buffer(context, B * H * nq * sizeof(float), &bl) == MFA_SUCCESS);
        CHECK(mfa_attention_forward_with_lse(context, bq, bk, bv, bo, bl, B, nq, nkv, H, D, 0.3f, causal, 2, 2, 2, tq,
                                             tk, tv, to) == MFA_SUCCESS);
        CHECK(mfa_attention_backward(context, bd, bq, bk, bv, bo, bl, dq, dk, dv, B, nq, nkv, H, D, 0.3f, causal, 2, 2,
                                     2, tq, tk, tv, to) == MFA_SUCCESS);
        CHECK(holds(dq, tq, nq, g.dquery));
        CHECK(holds(dk, tk, nkv, g.dkey));
        CHECK(holds(dv, tv, nkv, g.dvalue));
        mfa_buffer_t buffers[] = {bq, bk, bv, bd, bo, bl, dq, dk, dv};
        for (size_t i = 0; i < sizeof buffers / sizeof *buffers; ++i)
            mfa_destroy_buffer(buffers[i]);
    }
    free(q), free(k), free(v), free(dout);
    free_gradients(&g);
}

static void test_gradient_errors(mfa_context_t context) {
    enum { Q = 1, K, V, OUT, LSE, DQ, DK, DV, BUFFERS }; /* 0 is dout */
    static const char *const names[BUFFERS] = {"dout", "q", "k", "v", "out", "logsumexp", "dq", "dk", "dv"};
    mfa_buffer_t big[BUFFERS], small = NULL;
    for (int i = 0; i < BUFFERS; ++i)
        CHECK(mfa_create_buffer(context, 4096, &big[i]) == MFA_SUCCESS);
    CHECK(mfa_create_buffer(context, 8, &small) == MFA_SUCCESS);
    memset(mfa_buffer_contents(big[DQ]), 0x55, 4096);
#define BACKWARD(b, heads, output)                                                                                     \
    mfa_attention_backward(context, b[0], b[Q], b[K], b[V], b[OUT], b[LSE], b[DQ], b[DK], b[DV], 1, 4, 4, heads, 8, 1, \
                           false, 2, 2, output, 0, 0, 0, 0)
    for (int i = 0; i < BUFFERS; ++i) {
        mfa_buffer_t given[BUFFERS];
        memcpy(given, big, sizeof given);
        given[i] = NULL;
        char message[32];
        snprintf(message, sizeof message, "%s is NULL", names[i]);
        CHECK_FAILS(BACKWARD(given, 1, 2), MFA_ERROR_INVALID_ARGS, message);
        given[i] = small;
        CHECK_FAILS(BACKWARD(given, 1, 2), MFA_ERROR_INVALID_ARGS, "reaches");
        if (i >= DQ) {
            given[i] = big[0];
            CHECK_FAILS(BACKWARD(given, 1, 2), MFA_ERROR_INVALID_ARGS, "overlaps");
        }
    }
    CHECK_FAILS(BACKWARD(big, 0, 2), MFA_ERROR_INVALID_ARGS, "0 heads");
    CHECK_FAILS(BACKWARD(big, 1, 5), MFA_ERROR_INVALID_ARGS, "precision is BOOL");
#undef BACKWARD
    int touched = 0;
    for (int i = 0; i < 4096; ++i)
        touched |= ((char *)mfa_buffer_contents(big[DQ]))[i] != 0x55;
    CHECK(!touched);
    mfa_destroy_buffer(small);
    for (int i = 0; i < BUFFERS; ++i)
        mfa_destroy_buffer(big[i]);
}

static void test_errors(mfa_context_t context) {
    mfa_buffer_t big = NULL, small = NULL, out = NULL;
    CHECK(mfa_create_buffer(context, 4096, &big) == MFA_SUCCESS);
    CHECK(mfa_create_buffer(context, 16, &small) == MFA_SUCCESS);
    CHECK(mfa_create_buffer(context, 4096, &out) == MFA_SUCCESS);
    memset(mfa_buffer_contents(out), 0x55, 4096);
#define FLAT(context, q, k, v, out, heads, dim, input, intermediate, output) \
    mfa_attention_forward(context, q, k, v, out, 1, 4, 4, heads, dim, 1, false, input, intermediate, output, 0, 0, 0, 0)
    CHECK_FAILS(FLAT(NULL, big, big, big, out, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "context is NULL");
    CHECK_FAILS(FLAT(context, NULL, big, big, out, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "q is NULL");
    CHECK_FAILS(FLAT(context, big, NULL, big, out, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "k is NULL");
    CHECK_FAILS(FLAT(context, big, big, NULL, out, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "v is NULL");
    CHECK_FAILS(FLAT(context, big, big, big, NULL, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "out is NULL");
    CHECK_FAILS(FLAT(context, small, big, big, out, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "query reaches");
    CHECK_FAILS(FLAT(context, big, big, big, small, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "out reaches");
    CHECK_FAILS(FLAT(context, big, big, big, big, 1, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "out overlaps query");
    CHECK_FAILS(FLAT(context, big, big, big, out, 0, 8, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "0 heads");
    CHECK_FAILS(FLAT(context, big, big, big, out, 1, 0, 2, 2, 2), MFA_ERROR_INVALID_ARGS, "head_dim 0");
    CHECK_FAILS(FLAT(context, big, big, big, out, 1, 8, 3, 2, 2), MFA_ERROR_INVALID_ARGS, "precision is INT8");
    CHECK_FAILS(FLAT(context, big, big, big, out, 1, 8, 9, 2, 2), MFA_ERROR_INVALID_ARGS, "precision is 9");
    CHECK_FAILS(FLAT(context, big, big, big, out, 1, 8, 2, 4, 2), MFA_ERROR_INVALID_ARGS,
                "intermediate_precision is 4");
    CHECK_FAILS(FLAT(context, big, big, big, out, 1, 8, 2, 2, 5), MFA_ERROR_INVALID_ARGS, "out.precision is BOOL");
#undef FLAT
    CHECK_FAILS(mfa_attention_forward(context, big, big, big, out, UINT32_MAX, UINT32_MAX, 4, UINT32_MAX, 0xffff, 1,
                                      false, 2, 2, 2, false, false, false, false),
                MFA_ERROR_INVALID_ARGS, "overflows 64 bits");
    CHECK_FAILS(
        mfa_attention_forward_with_lse(context, big, big, big, out, NULL, 1, 4, 4, 1, 8, 1, false, 2, 2, 2, 0, 0, 0, 0),
        MFA_ERROR_INVALID_ARGS, "logsumexp is NULL");
    CHECK_FAILS(mfa_attention_forward_with_lse(context, big, big, big, out, small, 1, 5, 4, 1, 8, 1, false, 2, 2, 2, 0,
                                               0, 0, 0),
                MFA_ERROR_INVALID_ARGS, "logsumexp reaches");
    int touched = 0;
    for (int i = 0; i < 4096; ++i)
        touched |= ((char *)mfa_buffer_contents(out))[i] != 0x55;
    CHECK(!touched);
    CHECK(mfa_attention_forward(context, big, big, big, out, 0, 4, 4, 1, 8, 1, false, 2, 2, 2, 0, 0, 0, 0) ==
          MFA_SUCCESS);
    CHECK(mfa_attention_forward(context, small, big, big, small, 1, 0, 4, 1, 8, 1, false, 2, 2, 2, 0, 0, 0, 0) ==
          MFA_SUCCESS);
    mfa_destroy_buffer(big);
    mfa_destroy_buffer(small);
    mfa_destroy_buffer(out);
}

int main(void) {
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        mfa_context_t context = NULL;
        mfa_status_t status = mfa_create_context_with_options(&options, &context);
        if (status == MFA_ERROR_DEVICE_NOT_SUPPORTED)
            continue;
        CHECK(status == MFA_SUCCESS);
        static const uint32_t sizes[][2] = {{1, 1}, {7, 33}, {50, 49}, {97, 100}, {3, 1100}, {5, 0}};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i)
            for (int causal = 0; causal < 2; ++causal)
                test_layouts(context, sizes[i][0], sizes[i][1], causal);
        static const uint32_t gradient_sizes[][2] = {{1, 2}, {7, 33}, {50, 49}, {5, 0}};
        for (size_t i = 0; i < sizeof gradient_sizes / sizeof *gradient_sizes; ++i)
            for (int causal = 0; causal < 2; ++causal)
                test_gradient_layouts(context, gradient_sizes[i][0], gradient_sizes[i][1], causal);
        test_errors(context);
        test_gradient_errors(context);
        CHECK(mfa_get_gpu_latency(context) > 0);
        mfa_destroy_context(context);
    }
    return check_report();
}

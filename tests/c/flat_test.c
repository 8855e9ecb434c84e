/* The simple tier against the definition, for every instance of the kernels this machine has. */
#include "check.h"
#include "mfa.h"
#include "naive.h"

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
        test_errors(context);
        CHECK(mfa_get_gpu_latency(context) > 0);
        mfa_destroy_context(context);
    }
    return check_report();
}

/* Gradients of every precision with causal, window, softcap, masks, sinks, dropout and grouped heads against the
   definition, for every instance of the kernels this machine has. The Python suite goes much further; this also runs
   where only C does, as under an emulator, and under the sanitizers. */
#include "check.h"
#include "naive_gradients.h"

enum { H = 4, HKV = 2 };

/* `step` 1 tries every combination of features, 9 a few in which each is on and off. */
static void test_case(mfa_context_t context, int32_t precision, int64_t nq, int64_t nkv, int64_t dim, int64_t dv,
                      int step) {
    static const double epsilon[] = {0x1p-11, 0x1p-8, 0x1p-24};
    mfa_tensor_t q = random_tensor(precision, H, nq, dim), k = random_tensor(precision, HKV, nkv, dim);
    mfa_tensor_t v = random_tensor(precision, HKV, nkv, dv), out = random_tensor(precision, H, nq, dv);
    mfa_tensor_t dout = random_tensor(precision, H, nq, dv), lse = random_tensor(MFA_PRECISION_FP32, H, nq, 1);
    mfa_tensor_t mask = random_tensor(precision, 1, nq, nkv), sinks = random_tensor(MFA_PRECISION_FP32, H, 1, 1);
    mfa_tensor_t dq = random_tensor(precision, H, nq, dim), dk = random_tensor(precision, HKV, nkv, dim);
    mfa_tensor_t dvalue = random_tensor(precision, HKV, nkv, dv), dbias = random_tensor(precision, 1, nq, nkv);
    mfa_tensor_t dsinks = random_tensor(MFA_PRECISION_FP32, H, 1, 1);
    for (int features = 0; features < 64; features += step) {
        mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
        forward.query = &q;
        forward.key = &k;
        forward.value = &v;
        forward.out = &out;
        forward.logsumexp = &lse;
        forward.softmax_scale = -0.25f;
        forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
        forward.flags = features & 1 ? MFA_ATTENTION_CAUSAL : 0;
        forward.window_left = features & 2 ? 9 : -1;
        forward.softcap = features & 4 ? 0.7f : 0;
        forward.additive_mask = features & 8 ? &mask : NULL;
        forward.sinks = features & 16 ? &sinks : NULL;
        forward.dropout_p = features & 32 ? 0.3f : 0;
        forward.dropout_seed = 99;
        CHECK(mfa_attention_forward_desc(context, &forward) == MFA_SUCCESS);
        mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
        backward.forward = &forward;
        backward.dout = &dout;
        backward.dquery = &dq;
        backward.dkey = &dk;
        backward.dvalue = &dvalue;
        backward.dbias = features & 8 ? &dbias : NULL;
        backward.dsinks = features & 16 ? &dsinks : NULL;
        CHECK(mfa_attention_backward_desc(context, &backward) == MFA_SUCCESS);

        naive_gradients_t g = naive_gradients(&forward, &dout);
        for (int64_t h = 1; h < H; ++h)
            for (int64_t i = 0; i < nq * nkv; ++i)
                g.dbias[i] += g.dbias[h * nq * nkv + i];
        /* Weights, their gradients, out and the result are rounded; relative to the largest, little of it adds up. */
        const double bound = (precision == MFA_PRECISION_FP32 ? 64 : 8) * epsilon[precision];
        CHECK(relative_difference(&dq, g.dquery) < bound);
        CHECK(relative_difference(&dk, g.dkey) < bound);
        CHECK(relative_difference(&dvalue, g.dvalue) < bound);
        CHECK(!backward.dbias || relative_difference(&dbias, g.dbias) < bound);
        CHECK(!backward.dsinks || relative_difference(&dsinks, g.dsinks) < bound);
        free_gradients(&g);
    }
    free(q.data), free(k.data), free(v.data), free(out.data), free(dout.data), free(lse.data), free(mask.data);
    free(sinks.data), free(dq.data), free(dk.data), free(dvalue.data), free(dbias.data), free(dsinks.data);
}

int main(void) {
    int instances = 0;
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        options.num_threads = 3;
        mfa_context_t context = NULL;
        if (mfa_create_context_with_options(&options, &context) != MFA_SUCCESS)
            continue;
        ++instances;
        mfa_context_info_t info = MFA_CONTEXT_INFO_INIT;
        CHECK(mfa_context_describe(context, &info) == MFA_SUCCESS);
        printf("instance %s\n", info.isa_name);
        for (int32_t precision = MFA_PRECISION_FP16; precision <= MFA_PRECISION_FP32; ++precision) {
            test_case(context, precision, 1, 2, 1, 1, 1);
            test_case(context, precision, 13, 21, 5, 3, 1);
            test_case(context, precision, 13, 37, 20, 33, 9);
            test_case(context, precision, 99, 98, 7, 4, 9);
            test_case(context, precision, 3, 790, 6, 5, 9);
        }
        mfa_destroy_context(context);
    }
    CHECK(instances > 0);
    return check_report();
}

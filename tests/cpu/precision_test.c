/* Every precision with causal, window, softcap, masks and grouped heads against the definition, for every instance of
   the kernels this machine has. The Python suite goes much further; this also runs where only C does, as under an
   emulator. */
#include "check.h"
#include "tensors.h"

enum { H = 4, HKV = 2 };

/* Largest error of `out`, relative to the largest |value|, which bounds every output. */
static double error_of(const mfa_attention_desc_t *desc, int64_t window_left) {
    const mfa_tensor_t *q = desc->query, *k = desc->key, *v = desc->value, *mask = desc->additive_mask;
    const int64_t nq = q->shape[2], nkv = k->shape[2], dim = q->shape[3], dv = v->shape[3];
    double worst = 0, *weights = malloc((size_t)nkv * sizeof *weights);
    for (int64_t h = 0; h < H; ++h)
        for (int64_t i = 0; i < nq; ++i) {
            const int64_t at = i + nkv - nq;
            const int64_t first = window_left >= 0 && at - window_left > 0 ? at - window_left : 0;
            const int64_t last = desc->flags & MFA_ATTENTION_CAUSAL && at < nkv - 1 ? at : nkv - 1;
            double sum = 0;
            for (int64_t j = first; j <= last; ++j) {
                double score = 0;
                for (int64_t d = 0; d < dim; ++d)
                    score += (double)load(q->precision, q->data, (h * nq + i) * dim + d) *
                             load(k->precision, k->data, (h / (H / HKV) * nkv + j) * dim + d);
                score /= sqrt((double)dim);
                if (desc->softcap > 0)
                    score = desc->softcap * tanh(score / desc->softcap);
                if (mask)
                    score += load(mask->precision, mask->data, i * nkv + j);
                sum += weights[j] = exp(score);
            }
            for (int64_t d = 0; d < dv; ++d) {
                double total = 0;
                for (int64_t j = first; j <= last; ++j)
                    total += weights[j] * load(v->precision, v->data, (h / (H / HKV) * nkv + j) * dv + d);
                const double expected = last >= first ? total / sum : 0;
                const double error =
                    fabs(load(desc->out->precision, desc->out->data, (h * nq + i) * dv + d) - expected);
                worst = error > worst || isnan(error) ? error : worst;
            }
        }
    free(weights);
    return worst;
}

static void test_case(mfa_context_t context, int32_t precision, int64_t nq, int64_t nkv, int64_t dim, int64_t dv) {
    static const double epsilon[] = {0x1p-11, 0x1p-8, 0x1p-24};
    mfa_tensor_t q = random_tensor(precision, H, nq, dim), k = random_tensor(precision, HKV, nkv, dim);
    mfa_tensor_t v = random_tensor(precision, HKV, nkv, dv), out = random_tensor(precision, H, nq, dv);
    mfa_tensor_t mask = random_tensor(precision, 1, nq, nkv);
    for (int features = 0; features < 16; ++features) {
        mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
        desc.query = &q;
        desc.key = &k;
        desc.value = &v;
        desc.out = &out;
        desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
        desc.flags = features & 1 ? MFA_ATTENTION_CAUSAL : 0;
        desc.window_left = features & 2 ? 9 : -1;
        desc.softcap = features & 4 ? 0.7f : 0;
        desc.additive_mask = features & 8 ? &mask : NULL;
        CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS);
        /* Weights and result are each rounded once; float32 also collects what its sums round. */
        CHECK(error_of(&desc, desc.window_left) <= (precision == MFA_PRECISION_FP32 ? 16 : 2) * epsilon[precision]);
    }
    free(q.data), free(k.data), free(v.data), free(out.data), free(mask.data);
}

int main(void) {
    int instances = 0;
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        mfa_context_t context = NULL;
        if (mfa_create_context_with_options(&options, &context) != MFA_SUCCESS)
            continue;
        ++instances;
        mfa_context_info_t info = MFA_CONTEXT_INFO_INIT;
        CHECK(mfa_context_describe(context, &info) == MFA_SUCCESS);
        printf("instance %s\n", info.isa_name);
        for (int32_t precision = MFA_PRECISION_FP16; precision <= MFA_PRECISION_FP32; ++precision) {
            test_case(context, precision, 1, 1, 1, 1);
            test_case(context, precision, 13, 37, 20, 33);
            test_case(context, precision, 49, 48, 17, 16);
            test_case(context, precision, 2, 1030, 64, 5);
        }
        mfa_destroy_context(context);
    }
    CHECK(instances > 0);
    return check_report();
}

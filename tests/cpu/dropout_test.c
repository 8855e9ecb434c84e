/* Dropout's random numbers: known answers, and what the kernels drop, against the definition in mfa_philox.h. */
#include "check.h"
#include "mfa.h"
#include "mfa_philox.h"
#include "naive.h"

/* Published by the authors of Philox with Random123. */
static void test_known_answers(void) {
    static const mfa_u32 pi_and_e[6] = {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0};
    static const mfa_u32 expected[3][4] = {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
                                           {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
                                           {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}};
    for (int answer = 0; answer < 3; ++answer) {
        mfa_u32 word[6];
        for (int i = 0; i < 6; ++i)
            word[i] = answer == 0 ? 0 : answer == 1 ? 0xffffffff : pi_and_e[i];
        const mfa_philox counter = {{word[0], word[1], word[2], word[3]}};
        const mfa_philox_key key = {{word[4], word[5]}};
        const mfa_philox result = mfa_rule_philox(counter, key);
        for (int i = 0; i < 4; ++i)
            CHECK(result.word[i] == expected[answer][i]);
    }
}

static void test_bits(void) {
    const mfa_u64 seed = 0x0000000400000003, offset = 0x0000000900000007;
    const mfa_philox outer = {{7, 9, 0, 0}};
    const mfa_philox_key words_of_seed = {{3, 4}};
    const mfa_philox start = mfa_rule_philox(outer, words_of_seed);
    const mfa_philox_key key = mfa_rule_dropout_key(seed, offset);
    CHECK(key.word[0] == start.word[0] && key.word[1] == start.word[1]);
    /* Columns 300 and 316: lane 12 of the third group, slices 2 and 3. */
    const mfa_philox counter = {{16 * 2 + 12, 5, 1, 2}};
    const mfa_philox result = mfa_rule_philox(counter, key);
    CHECK(mfa_rule_dropout_bits(key, 2, 1, 5, 300) == (result.word[1] & 0xffff));
    CHECK(mfa_rule_dropout_bits(key, 2, 1, 5, 316) == result.word[1] >> 16);
    CHECK(mfa_rule_dropout_threshold(0) == 0);
    CHECK(mfa_rule_dropout_threshold(0.5f) == 0x8000);
    CHECK(mfa_rule_dropout_threshold(0x1p-18f) == 0);
    CHECK(mfa_rule_dropout_threshold(1 - 0x1p-24f) == 0x10000);
}

enum { B = 2, H = 2 };

/* Packed, or the same for every batch and head. */
static mfa_tensor_t tensor(float *data, int64_t rows, int64_t columns, bool shared) {
    const mfa_tensor_t t = {sizeof(mfa_tensor_t),
                            MFA_PRECISION_FP32,
                            data,
                            NULL,
                            0,
                            {B, H, rows, columns},
                            {shared ? 0 : H * rows * columns, shared ? 0 : rows * columns, columns, 1}};
    return t;
}

/* Queries and keys of zeros, values of ones in one key each: a row of out shows which keys were kept. */
static void test_kernels(mfa_context_t context, uint32_t nq, uint32_t nkv) {
    const float p = 0.4f;
    float *zeros = calloc((size_t)B * H * (nq + nkv), sizeof *zeros), *out = random_floats((int64_t)B * H * nq * nkv);
    float *identity = calloc((size_t)nkv * nkv, sizeof *identity);
    for (uint32_t j = 0; j < nkv; ++j)
        identity[j * nkv + j] = 1;
    const mfa_tensor_t query = tensor(zeros, nq, 1, false), key = tensor(zeros, nkv, 1, false);
    const mfa_tensor_t value = tensor(identity, nkv, nkv, true), result = tensor(out, nq, nkv, false);
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &query;
    desc.key = &key;
    desc.value = &value;
    desc.out = &result;
    desc.dropout_p = p;
    desc.dropout_seed = 0x123456789abcdef0;
    desc.dropout_offset = 5;
    CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS);
    const mfa_philox_key seed = mfa_rule_dropout_key(desc.dropout_seed, desc.dropout_offset);
    int64_t wrong = 0;
    for (int64_t at = 0; at < (int64_t)B * H * nq * nkv; ++at) {
        const mfa_index j = at % nkv, i = at / nkv % nq, head = at / nkv / nq % H, batch = at / nkv / nq / H;
        const bool kept = mfa_rule_dropout_bits(seed, batch, head, i, j) >= mfa_rule_dropout_threshold(p);
        const double expected = kept ? 1 / ((1 - (double)p) * nkv) : 0;
        wrong += !(fabs(out[at] - expected) <= 1e-6 * expected);
    }
    CHECK(wrong == 0);
    free(zeros), free(out), free(identity);
}

int main(void) {
    test_known_answers();
    test_bits();
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        mfa_context_t context = NULL;
        if (mfa_create_context_with_options(&options, &context) != MFA_SUCCESS)
            continue;
        test_kernels(context, 2, 40);
        test_kernels(context, 50, 300);
        test_kernels(context, 1, 1100);
        mfa_destroy_context(context);
    }
    return check_report();
}

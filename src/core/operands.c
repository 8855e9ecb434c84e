#include "core/operands.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "core/overlap.h"

#define FORWARD(member) MFAI_FORWARD, offsetof(mfa_attention_desc_t, member), offsetof(mfai_problem_t, member)
#define BACKWARD(member) \
    MFAI_BACKWARD, offsetof(mfa_attention_backward_desc_t, member), offsetof(mfai_problem_t, member)

enum {
    ONE = MFAI_ONE,
    B = MFAI_BATCH,
    H = MFAI_HEADS,
    HKV = MFAI_KV_HEADS,
    NQ = MFAI_QUERIES,
    NKV = MFAI_KEYS,
    D = MFAI_HEAD_DIM,
    DV = MFAI_VALUE_DIM,
    B1 = MFAI_BATCH | MFAI_OR_ONE,
    H1 = MFAI_HEADS | MFAI_OR_ONE,
    NQ1 = MFAI_QUERIES | MFAI_OR_ONE,
    NKV1 = MFAI_KEYS | MFAI_OR_ONE,

    BOOLEAN = MFAI_FORMAT_BIT(MFAI_FORMAT_BOOL),
    FP32 = MFAI_FORMAT_BIT(MFAI_FORMAT_FP32),
    FLOATING = MFAI_FLOATING,

    NO = MFAI_UNUSED,
    IN = MFAI_READ,
    NEED = MFAI_READ_ALWAYS,
    OUT = MFAI_WRITE,
    GIVE = MFAI_WRITE_ALWAYS
};

/* clang-format off */
const mfai_operand_t mfai_operands[MFAI_OPERANDS] = {
    /* name            described by             formats   shape                 as                forward backward */
    {"query",         FORWARD(query),         FLOATING, {B, H, NQ, D},        NULL,            {NEED, NEED}, NULL},
    {"key",           FORWARD(key),           FLOATING, {B, HKV, NKV, D},     NULL,            {NEED, NEED}, NULL},
    {"value",         FORWARD(value),         FLOATING, {B, HKV, NKV, DV},    NULL,            {NEED, NEED}, NULL},
    {"out",           FORWARD(out),           FLOATING, {B, H, NQ, DV},       NULL,            {GIVE, NEED}, NULL},
    {"logsumexp",     FORWARD(logsumexp),     FP32,     {B, H, NQ, ONE},      NULL,            {OUT,  NEED},
     ", expected what the forward call wrote"},
    {"bool_mask",     FORWARD(bool_mask),     BOOLEAN,  {B1, H1, NQ1, NKV1},  NULL,            {IN,   IN},   NULL},
    {"additive_mask", FORWARD(additive_mask), FLOATING, {B1, H1, NQ1, NKV1},  NULL,            {IN,   IN},   NULL},
    {"alibi_slopes",  FORWARD(alibi_slopes),  FP32,     {B1, H, ONE, ONE},    NULL,            {IN,   IN},   NULL},
    {"sinks",         FORWARD(sinks),         FP32,     {ONE, H, ONE, ONE},   NULL,            {IN,   IN},   NULL},
    {"dout",          BACKWARD(dout),         FLOATING, {0},                  "out",           {NO,   NEED}, NULL},
    {"dquery",        BACKWARD(dquery),       FLOATING, {0},                  "query",         {NO,   OUT},  NULL},
    {"dkey",          BACKWARD(dkey),         FLOATING, {0},                  "key",           {NO,   OUT},  NULL},
    {"dvalue",        BACKWARD(dvalue),       FLOATING, {0},                  "value",         {NO,   OUT},  NULL},
    {"dbias",         BACKWARD(dbias),        FLOATING, {0},                  "additive_mask", {NO,   OUT},  NULL},
    {"dsinks",        BACKWARD(dsinks),       FP32,     {0},                  "sinks",         {NO,   OUT},  NULL},
};
/* clang-format on */

#define FOR_EACH(operand) \
    for (const mfai_operand_t *operand = mfai_operands; operand < mfai_operands + MFAI_OPERANDS; ++operand)

static bool is_needed(int use) { return use == MFAI_READ_ALWAYS || use == MFAI_WRITE_ALWAYS; }

mfa_status_t mfai_operands_import(mfa_context_t context, mfai_pass_t described_by, const void *desc,
                                  mfai_problem_t *problem) {
    FOR_EACH(operand) {
        if (operand->described_by != described_by)
            continue;
        const mfa_tensor_t *tensor;
        memcpy(&tensor, (const char *)desc + operand->tensor, sizeof tensor);
        MFAI_REQUIRE(tensor != NULL || !is_needed(operand->use[problem->pass]), "%s is NULL%s", operand->name,
                     operand->when_missing != NULL ? operand->when_missing : "");
        MFAI_TRY(mfai_view_import(operand->name, context, tensor, operand->formats,
                                  (mfai_view_t *)((char *)problem + operand->view)));
    }
    return MFA_SUCCESS;
}

static const mfai_view_t *find(const char *name, const mfai_problem_t *problem) {
    const mfai_operand_t *operand = mfai_operands;
    while (strcmp(operand->name, name) != 0)
        ++operand;
    return mfai_operand_view(operand, problem);
}

static int64_t size_of(const mfai_problem_t *p, int size) {
    const int64_t sizes[] = {[MFAI_ONE] = 1,
                             [MFAI_BATCH] = p->batch,
                             [MFAI_HEADS] = p->heads,
                             [MFAI_KV_HEADS] = p->kv_heads,
                             [MFAI_QUERIES] = p->query_count,
                             [MFAI_KEYS] = p->key_count,
                             [MFAI_HEAD_DIM] = p->head_dim,
                             [MFAI_VALUE_DIM] = p->value_dim};
    return sizes[size & ~MFAI_OR_ONE];
}

static mfa_status_t check_shape(const mfai_operand_t *operand, const mfai_problem_t *problem) {
    const mfai_view_t *view = mfai_operand_view(operand, problem);
    if (!view->present)
        return MFA_SUCCESS;
    if (operand->like != NULL) {
        const mfai_view_t *model = find(operand->like, problem);
        MFAI_REQUIRE(model->present, "%s is set, but %s is NULL", operand->name, operand->like);
        return mfai_view_expect(operand->name, view, model->shape, 0);
    }
    int64_t shape[4];
    unsigned may_be_one = 0;
    for (int axis = 0; axis < 4; ++axis) {
        shape[axis] = size_of(problem, operand->shape[axis]);
        may_be_one |= operand->shape[axis] & MFAI_OR_ONE ? 1u << axis : 0;
    }
    return mfai_view_expect(operand->name, view, shape, may_be_one);
}

mfa_status_t mfai_operands_check_shapes(const mfai_problem_t *problem) {
    FOR_EACH(operand)
    MFAI_TRY(check_shape(operand, problem));
    return MFA_SUCCESS;
}

mfa_status_t mfai_operands_check_results(const mfai_problem_t *problem) {
    FOR_EACH(result) {
        if (!mfai_is_written(result->use[problem->pass]))
            continue;
        const mfai_view_t *view = mfai_operand_view(result, problem);
        MFAI_TRY(mfai_view_expect_injective(result->name, view));
        FOR_EACH(other) {
            /* Of two results, the first names the second. */
            const bool compared = other > result || !mfai_is_written(other->use[problem->pass]);
            MFAI_REQUIRE(other == result || !compared || !mfai_views_overlap(view, mfai_operand_view(other, problem)),
                         "%s overlaps %s in memory, expected memory of its own", result->name, other->name);
        }
    }
    return MFA_SUCCESS;
}

bool mfai_problem_is_on_device(const mfai_problem_t *problem) {
    FOR_EACH(operand)
    if (mfai_view_is_on_device(mfai_operand_view(operand, problem)))
        return true;
    return false;
}

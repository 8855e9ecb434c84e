#include "core/operands.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "core/integers.h"
#include "core/overlap.h"
#include "core/quantization.h"

#define OF(desc, type, member, view) MFAI_DESC_##desc, offsetof(mfa_##type##_t, member), offsetof(mfai_problem_t, view)
#define FORWARD(member) OF(FORWARD, attention_desc, member, member)
#define BACKWARD(member) OF(BACKWARD, attention_backward_desc, member, member)
#define SEQUENCES(member) OF(SEQUENCES, sequences, member, member)
#define KEY_CODES(member) OF(KEY_QUANTIZATION, quantization, member, key_quantization.member)
#define VALUE_CODES(member) OF(VALUE_QUANTIZATION, quantization, member, value_quantization.member)
#define BLOCKS(member) OF(BLOCKS, blocks, member, member)

enum {
    ONE = MFAI_ONE,
    B = MFAI_BATCH,
    H = MFAI_HEADS,
    HKV = MFAI_KV_HEADS,
    QB = MFAI_QUERY_BATCH,
    NQ = MFAI_QUERY_ROWS,
    KB = MFAI_KEY_BATCH,
    NKV = MFAI_KEY_ROWS,
    D = MFAI_HEAD_DIM,
    DV = MFAI_VALUE_DIM,
    B1 = MFAI_BATCH | MFAI_OR_ONE,
    H1 = MFAI_HEADS | MFAI_OR_ONE,
    HKV1 = MFAI_KV_HEADS | MFAI_OR_ONE,
    NQ1 = MFAI_QUERIES | MFAI_OR_ONE,
    NKV1 = MFAI_KEYS | MFAI_OR_ONE,
    ANY = MFAI_ANY,
    STARTS = MFAI_STARTS,
    NB = MFAI_NEW_BATCH,
    NN = MFAI_NEW_ROWS,
    RN = MFAI_ROTARY_ROWS,
    RD = MFAI_ROTARY_COLUMNS,
    R = MFAI_BLOCK_LINES,
    C = MFAI_BLOCK_COLUMNS,
    BR = MFAI_BLOCK_ROWS,
    BK = MFAI_BLOCK_KEYS,
    KSR = MFAI_KEY_SCALE_ROWS,
    KSC = MFAI_KEY_SCALE_COLUMNS,
    VSR = MFAI_VALUE_SCALE_ROWS,
    VSC = MFAI_VALUE_SCALE_COLUMNS,
    KB1 = MFAI_KEY_BATCH | MFAI_OR_ONE,

    BOOLEAN = MFAI_FORMAT_BIT(MFAI_FORMAT_BOOL),
    FP32 = MFAI_FORMAT_BIT(MFAI_FORMAT_FP32),
    INT32 = MFAI_FORMAT_BIT(MFAI_FORMAT_INT32),
    FLOATING = MFAI_FLOATING,
    STORED = MFAI_FLOATING | MFAI_CODES,
    FACTOR = MFAI_FORMAT_BIT(MFAI_FORMAT_FP32) | MFAI_FORMAT_BIT(MFAI_FORMAT_FP16),
    WHOLE = MFAI_FORMAT_BIT(MFAI_FORMAT_INT32) | MFAI_FORMAT_BIT(MFAI_FORMAT_INT8) | MFAI_FORMAT_BIT(MFAI_FORMAT_UINT8),

    NO = MFAI_UNUSED,
    IN = MFAI_READ,
    NEED = MFAI_READ_ALWAYS,
    OUT = MFAI_WRITE,
    GIVE = MFAI_WRITE_ALWAYS
};

_Static_assert(MFAI_OPERANDS <= 64, "mfai_problem_t has a bit for each");

/* Those of a struct side by side. */
/* clang-format off */
const mfai_operand_t mfai_operands[MFAI_OPERANDS] = {
    /* name            described by             formats   shape                 as                forward backward */
    {"query",         FORWARD(query),         FLOATING, {QB, H, NQ, D},       NULL,            {NEED, NEED}, NULL},
    {"key",           FORWARD(key),           STORED,   {KB, HKV, NKV, D},    NULL,            {NEED, NEED}, NULL},
    {"value",         FORWARD(value),         STORED,   {KB, HKV, NKV, DV},   NULL,            {NEED, NEED}, NULL},
    {"out",           FORWARD(out),           FLOATING, {QB, H, NQ, DV},      NULL,            {GIVE, IN},   NULL},
    {"logsumexp",     FORWARD(logsumexp),     FP32,     {QB, H, NQ, ONE},     NULL,            {OUT,  NEED},
     ", expected what the forward call wrote"},
    {"bool_mask",     FORWARD(bool_mask),     BOOLEAN,  {B1, H1, NQ1, NKV1},  NULL,            {IN,   IN},   NULL},
    {"additive_mask", FORWARD(additive_mask), FLOATING, {B1, H1, NQ1, NKV1},  NULL,            {IN,   IN},   NULL},
    {"alibi_slopes",  FORWARD(alibi_slopes),  FP32,     {B1, H, ONE, ONE},    NULL,            {IN,   IN},   NULL},
    {"sinks",         FORWARD(sinks),         FP32,     {ONE, H, ONE, ONE},   NULL,            {IN,   IN},   NULL},
    {"query_value",   FORWARD(query_value),   FLOATING, {QB, H, NQ, DV},      NULL,            {IN,   NO},   NULL},
    {"sequences.query_starts",    SEQUENCES(query_starts),    INT32, {ONE, ONE, ONE, STARTS}, NULL, {IN, IN}, NULL},
    {"sequences.key_starts",      SEQUENCES(key_starts),      INT32, {ONE, ONE, ONE, STARTS}, NULL, {IN, IN}, NULL},
    {"sequences.query_lengths",   SEQUENCES(query_lengths),   INT32, {ONE, ONE, ONE, B},      NULL, {IN, IN}, NULL},
    {"sequences.key_lengths",     SEQUENCES(key_lengths),     INT32, {ONE, ONE, ONE, B},      NULL, {IN, IN}, NULL},
    {"sequences.left_padding",    SEQUENCES(left_padding),    INT32, {ONE, ONE, ONE, B},      NULL, {IN, IN}, NULL},
    {"sequences.key_batches",     SEQUENCES(key_batches),     INT32, {ONE, ONE, ONE, B},      NULL, {IN, IN}, NULL},
    {"pages.page_table",          OF(PAGES, pages, page_table, page_table), INT32, {ONE, ONE, B, ANY}, NULL,
     {NEED, NEED}, NULL},
    {"blocks.kv_num_blocks",      BLOCKS(kv_num_blocks),      INT32, {B1, H1, R, ONE},        NULL, {IN, IN}, NULL},
    {"blocks.kv_indices",         BLOCKS(kv_indices),         INT32, {B1, H1, R, ANY},        NULL, {IN, IN}, NULL},
    {"blocks.full_kv_num_blocks", BLOCKS(full_kv_num_blocks), INT32, {B1, H1, R, ONE},        NULL, {IN, IN}, NULL},
    {"blocks.full_kv_indices",    BLOCKS(full_kv_indices),    INT32, {B1, H1, R, ANY},        NULL, {IN, IN}, NULL},
    {"blocks.block_mask",         BLOCKS(block_mask),         BOOLEAN, {B1, H1, R, C},        NULL, {IN, IN}, NULL},
    {"blocks.masks",              BLOCKS(masks),              BOOLEAN, {ANY, ONE, BR, BK},    NULL, {IN, IN}, NULL},
    {"blocks.mask_indices",       BLOCKS(mask_indices),       INT32, {B1, H1, R, ANY},        NULL, {IN, IN}, NULL},
    {"append.key",                OF(APPEND, append, key, new_key),         FLOATING, {NB, HKV, NN, D},  NULL,
     {NEED, NO}, NULL},
    {"append.value",              OF(APPEND, append, value, new_value),     FLOATING, {NB, HKV, NN, DV}, NULL,
     {NEED, NO}, NULL},
    {"append.starts",             OF(APPEND, append, starts, new_starts),   INT32, {ONE, ONE, ONE, STARTS}, NULL,
     {IN, NO}, NULL},
    {"append.rotary_cos",         OF(APPEND, append, rotary_cos, rotary_cos), FLOATING, {ONE, ONE, RN, RD}, NULL,
     {IN, NO}, NULL},
    {"append.rotary_sin",         OF(APPEND, append, rotary_sin, rotary_sin), FLOATING, {0}, "append.rotary_cos",
     {IN, NO}, NULL},
    {"append.rotary_positions",   OF(APPEND, append, rotary_positions, rotary_positions), INT32, {ONE, ONE, ONE, B},
     NULL, {IN, NO}, NULL},
    {"scales.query",              OF(SCALES, scales, query, query_scale),   FP32, {B1, HKV1, ONE, ONE}, NULL, {IN, NO},
     NULL},
    {"scales.key",                OF(SCALES, scales, key, key_scale),       FP32, {B1, HKV1, ONE, ONE}, NULL, {IN, NO},
     NULL},
    {"scales.value",              OF(SCALES, scales, value, value_scale),   FP32, {B1, HKV1, ONE, ONE}, NULL, {IN, NO},
     NULL},
    {"key_quantization.scales",        KEY_CODES(scales),        FACTOR, {KB1, HKV1, KSR, KSC}, NULL, {NEED, NEED}, NULL},
    {"key_quantization.zero_points",   KEY_CODES(zero_points),   WHOLE,  {0}, "key_quantization.scales",   {IN, IN}, NULL},
    {"key_quantization.mean",          KEY_CODES(mean),          FP32,   {B1, HKV1, ONE, D},    NULL, {IN, IN}, NULL},
    {"value_quantization.scales",      VALUE_CODES(scales),      FACTOR, {KB1, HKV1, VSR, VSC}, NULL, {NEED, NEED}, NULL},
    {"value_quantization.zero_points", VALUE_CODES(zero_points), WHOLE,  {0}, "value_quantization.scales", {IN, IN}, NULL},
    {"dout",          BACKWARD(dout),         FLOATING, {QB, H, NQ, DV},      NULL,            {NO,   NEED}, NULL},
    {"dquery",        BACKWARD(dquery),       FLOATING, {0},                  "query",         {NO,   OUT},  NULL},
    {"dkey",          BACKWARD(dkey),         FLOATING, {0},                  "key",           {NO,   OUT},  NULL},
    {"dvalue",        BACKWARD(dvalue),       FLOATING, {0},                  "value",         {NO,   OUT},  NULL},
    {"dbias",         BACKWARD(dbias),        FLOATING, {0},                  "additive_mask", {NO,   OUT},  NULL},
    {"dsinks",        BACKWARD(dsinks),       FP32,     {0},                  "sinks",         {NO,   OUT},  NULL},
    {"delta",         BACKWARD(delta),        FP32,     {QB, H, NQ, ONE},     NULL,            {NO,   OUT},  NULL},
    {"dlogsumexp",    BACKWARD(dlogsumexp),   FP32,     {QB, H, NQ, ONE},     NULL,            {NO,   IN},   NULL},
};
/* clang-format on */

/* Rows of the table, by their numbers: those of a set. */
#define FOR_EACH(operand, set)                                                                                 \
    for (uint64_t left_##operand = (set); left_##operand != 0; left_##operand &= left_##operand - 1)           \
        for (const mfai_operand_t *operand = &mfai_operands[__builtin_ctzll(left_##operand)]; operand != NULL; \
             operand = NULL)

static bool is_needed(int use) { return use == MFAI_READ_ALWAYS || use == MFAI_WRITE_ALWAYS; }

mfai_use_t mfai_operand_use(const mfai_operand_t *operand, const mfai_problem_t *problem) {
    const bool is_cache =
        operand->view == offsetof(mfai_problem_t, key) || operand->view == offsetof(mfai_problem_t, value);
    const bool is_key_scale = operand->described_by == MFAI_DESC_KEY_QUANTIZATION &&
                              operand->view != offsetof(mfai_problem_t, key_quantization.mean);
    const bool is_value_scale = operand->described_by == MFAI_DESC_VALUE_QUANTIZATION;
    const bool is_written = is_cache || (is_key_scale && problem->key_quantization.rows == 1) ||
                            (is_value_scale && problem->value_quantization.rows == 1);
    if (is_written && problem->new_key.present)
        return MFAI_UPDATE;
    if (operand->view == offsetof(mfai_problem_t, delta) && !problem->out.present)
        return MFAI_READ;
    return (mfai_use_t)operand->use[problem->pass];
}

mfa_status_t mfai_operands_import(mfa_context_t context, mfai_desc_t described_by, const void *desc,
                                  mfai_problem_t *problem) {
    problem->described |= 1u << described_by;
    int i = 0;
    while (mfai_operands[i].described_by != described_by)
        ++i;
    for (; i < MFAI_OPERANDS && mfai_operands[i].described_by == described_by; ++i) {
        const mfai_operand_t *operand = &mfai_operands[i];
        const mfa_tensor_t *tensor;
        memcpy(&tensor, (const char *)desc + operand->tensor, sizeof tensor);
        MFAI_REQUIRE(tensor != NULL || !is_needed(operand->use[problem->pass]), "%s is NULL%s", operand->name,
                     operand->when_missing != NULL ? operand->when_missing : "");
        if (tensor == NULL)
            continue;
        MFAI_TRY(mfai_view_import(operand->name, context, tensor, operand->formats,
                                  (mfai_view_t *)((char *)problem + operand->view)));
        problem->operands |= UINT64_C(1) << i;
    }
    return MFA_SUCCESS;
}

static const mfai_view_t *find(const char *name, const mfai_problem_t *problem) {
    const mfai_operand_t *operand = mfai_operands;
    while (strcmp(operand->name, name) != 0)
        ++operand;
    return mfai_operand_view(operand, problem);
}

/* Batches of key and value: pages and lists of batches name some of any number. */
static int64_t key_batch(const mfai_problem_t *p) {
    if (p->page_table.present || p->key_batches.present)
        return p->key.shape[0];
    return p->key_starts.present ? 1 : p->batch;
}

enum { SIZES = MFAI_SIZES };

static void find_sizes(const mfai_problem_t *p, int64_t sizes[SIZES]) {
    const int64_t found[SIZES] = {
        [MFAI_ONE] = 1,
        [MFAI_BATCH] = p->batch,
        [MFAI_STARTS] = p->batch + 1,
        [MFAI_HEADS] = p->heads,
        [MFAI_KV_HEADS] = p->kv_heads,
        [MFAI_QUERIES] = p->query_count,
        [MFAI_KEYS] = p->key_count,
        [MFAI_QUERY_BATCH] = p->query_starts.present ? 1 : p->batch,
        [MFAI_QUERY_ROWS] = p->query.shape[2],
        [MFAI_KEY_BATCH] = key_batch(p),
        [MFAI_KEY_ROWS] = p->key.shape[2],
        [MFAI_HEAD_DIM] = p->head_dim,
        [MFAI_VALUE_DIM] = p->value_dim,
        [MFAI_NEW_BATCH] = p->new_starts.present ? 1 : p->batch,
        [MFAI_NEW_ROWS] = p->new_key.shape[2],
        [MFAI_ROTARY_ROWS] = p->rotary_cos.shape[2],
        [MFAI_ROTARY_COLUMNS] = p->rotary_cos.shape[3],
        [MFAI_KEY_SCALE_ROWS] = mfai_scale_count(p->key.shape[2], p->key_quantization.rows),
        [MFAI_KEY_SCALE_COLUMNS] = mfai_scale_count(p->head_dim, p->key_quantization.columns),
        [MFAI_VALUE_SCALE_ROWS] = mfai_scale_count(p->key.shape[2], p->value_quantization.rows),
        [MFAI_VALUE_SCALE_COLUMNS] = mfai_scale_count(p->value_dim, p->value_quantization.columns)};
    memcpy(sizes, found, sizeof found);
    if (p->block_rows == 0)
        return;
    sizes[MFAI_BLOCK_LINES] = mfai_ceil_div(p->query_count, p->block_rows);
    sizes[MFAI_BLOCK_COLUMNS] = mfai_ceil_div(p->key_count, p->block_keys);
    sizes[MFAI_BLOCK_ROWS] = p->block_rows;
    sizes[MFAI_BLOCK_KEYS] = p->block_keys;
}

static mfa_status_t check_shape(const mfai_operand_t *operand, const int64_t sizes[SIZES],
                                const mfai_problem_t *problem) {
    const mfai_view_t *view = mfai_operand_view(operand, problem);
    if (operand->like != NULL) {
        const mfai_view_t *model = find(operand->like, problem);
        MFAI_REQUIRE(model->present, "%s is set, but %s is NULL", operand->name, operand->like);
        return mfai_view_expect(operand->name, view, model->shape, 0);
    }
    int64_t shape[4];
    unsigned may_be_one = 0;
    for (int axis = 0; axis < 4; ++axis) {
        const int size = operand->shape[axis] & ~MFAI_OR_ONE;
        shape[axis] = size == MFAI_ANY ? view->shape[axis] : sizes[size];
        may_be_one |= operand->shape[axis] & MFAI_OR_ONE ? 1u << axis : 0;
    }
    return mfai_view_expect(operand->name, view, shape, may_be_one);
}

mfa_status_t mfai_operands_check_shapes(const mfai_problem_t *problem, unsigned parts) {
    int64_t sizes[SIZES];
    find_sizes(problem, sizes);
    FOR_EACH(operand, problem->operands)
    if (parts >> operand->described_by & 1)
        MFAI_TRY(check_shape(operand, sizes, problem));
    return MFA_SUCCESS;
}

mfa_status_t mfai_operands_check_results(const mfai_problem_t *problem) {
    FOR_EACH(result, problem->operands) {
        if (!mfai_is_written(mfai_operand_use(result, problem)))
            continue;
        const mfai_view_t *view = mfai_operand_view(result, problem);
        MFAI_TRY(mfai_view_expect_injective(result->name, view));
        FOR_EACH(other, problem->operands) {
            /* Of two results, the first names the second. */
            const bool compared = other > result || !mfai_is_written(mfai_operand_use(other, problem));
            MFAI_REQUIRE(other == result || !compared || !mfai_views_overlap(view, mfai_operand_view(other, problem)),
                         "%s overlaps %s in memory, expected memory of its own", result->name, other->name);
        }
    }
    return MFA_SUCCESS;
}

bool mfai_problem_is_on_device(const mfai_problem_t *problem) {
    FOR_EACH(operand, problem->operands)
    if (mfai_view_is_on_device(mfai_operand_view(operand, problem)))
        return true;
    return false;
}

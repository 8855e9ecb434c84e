/*
 * A backward call, or the forward call in it, with every operand of some of mfa.h's structs: each at its own memory,
 * packed. B = 2, H = 4, Hkv = 2, Nq = 3, Nkv = 5, D = 8, Dv = 6; masks are broadcast. Keys that have codes are INT8, with
 * a scale a row, and values UINT4, with one for two rows. A test changes a thing and imports it.
 */
#ifndef DESCRIBED_H
#define DESCRIBED_H

#include "check.h"
#include "core/context.h"
#include "core/operands.h"
#include "core/quantization.h"

static union {
    float floats[1 << 12];
    int32_t ints[1 << 12];
} memory[MFAI_OPERANDS];

typedef struct {
    mfa_context_t context;
    mfai_pass_t pass;
    unsigned parts; /* the structs there are, 1 << MFAI_DESC_... */
    mfa_tensor_t tensors[MFAI_OPERANDS];
    bool absent[MFAI_OPERANDS];
    mfa_attention_desc_t desc;
    mfa_attention_backward_desc_t backward;
    mfa_sequences_t sequences;
    mfa_pages_t pages;
    mfa_blocks_t blocks;
    mfa_append_t append;
    mfa_scales_t scales;
    mfa_quantization_t key_quantization, value_quantization;
} call;

static int number_of(const char *name) {
    int i = 0;
    while (strcmp(mfai_operands[i].name, name) != 0)
        ++i;
    return i;
}

#define T(name) c.tensors[number_of(#name)]
#define DATA(name) memory[number_of(#name)].floats
#define ABSENT(name) c.absent[number_of(#name)]
#define LIST(name) memory[number_of(#name)].ints

static void pack(mfa_tensor_t *tensor, int64_t b, int64_t h, int64_t n, int64_t d) {
    const int64_t shape[4] = {b, h, n, d}, stride[4] = {h * n * d, n * d, d, 1};
    memcpy(tensor->shape, shape, sizeof shape);
    memcpy(tensor->stride, stride, sizeof stride);
}

/* Sets the first entries of a list. */
#define FILL(name, ...)                               \
    do {                                              \
        static const int32_t entries[] = __VA_ARGS__; \
        memcpy(DATA(name), entries, sizeof entries);  \
    } while (0)

static int32_t format_of(const mfai_operand_t *operand) {
    const bool is_floating = operand->formats & MFAI_FORMAT_BIT(MFAI_FORMAT_FP32);
    return is_floating ? MFAI_FORMAT_FP32 : __builtin_ctz(operand->formats);
}

static bool is_in(const mfai_operand_t *operand, mfai_pass_t pass, unsigned parts) {
    return parts >> operand->described_by & 1 && operand->use[pass] != MFAI_UNUSED;
}

/* Those of these structs that a pass has. */
static call good(mfa_context_t context, mfai_pass_t pass, unsigned parts) {
    static const int64_t sizes[] = {[MFAI_ONE] = 1,
                                    [MFAI_ANY] = 3,
                                    [MFAI_BATCH] = 2,
                                    [MFAI_STARTS] = 3,
                                    [MFAI_HEADS] = 4,
                                    [MFAI_KV_HEADS] = 2,
                                    [MFAI_QUERIES] = 3,
                                    [MFAI_KEYS] = 5,
                                    [MFAI_QUERY_BATCH] = 2,
                                    [MFAI_QUERY_ROWS] = 3,
                                    [MFAI_KEY_BATCH] = 2,
                                    [MFAI_KEY_ROWS] = 5,
                                    [MFAI_HEAD_DIM] = 8,
                                    [MFAI_VALUE_DIM] = 6,
                                    [MFAI_NEW_BATCH] = 2,
                                    [MFAI_NEW_ROWS] = 2,
                                    [MFAI_ROTARY_ROWS] = 16,
                                    [MFAI_ROTARY_COLUMNS] = 3,
                                    [MFAI_BLOCK_LINES] = 2,
                                    [MFAI_BLOCK_COLUMNS] = 3,
                                    [MFAI_BLOCK_ROWS] = 2,
                                    [MFAI_BLOCK_KEYS] = 2,
                                    [MFAI_KEY_SCALE_ROWS] = 5,
                                    [MFAI_KEY_SCALE_COLUMNS] = 1,
                                    [MFAI_VALUE_SCALE_ROWS] = 3,
                                    [MFAI_VALUE_SCALE_COLUMNS] = 1};
    call c = {.context = context,
              .pass = pass,
              .parts = parts | 1 << MFAI_DESC_FORWARD | (pass == MFAI_BACKWARD ? 1 << MFAI_DESC_BACKWARD : 0),
              .desc = MFA_ATTENTION_DESC_INIT,
              .backward = MFA_ATTENTION_BACKWARD_DESC_INIT,
              .sequences = MFA_SEQUENCES_INIT,
              .pages = MFA_PAGES_INIT,
              .blocks = MFA_BLOCKS_INIT,
              .append = MFA_APPEND_INIT,
              .scales = MFA_SCALES_INIT,
              .key_quantization = MFA_QUANTIZATION_INIT,
              .value_quantization = MFA_QUANTIZATION_INIT};
    for (int i = 0; i < MFAI_OPERANDS; ++i) {
        const mfai_operand_t *operand = &mfai_operands[i];
        const uint8_t *shape = mfai_operands[operand->like ? number_of(operand->like) : i].shape;
        int64_t n[4];
        for (int axis = 0; axis < 4; ++axis)
            n[axis] = sizes[shape[axis] & ~MFAI_OR_ONE];
        c.absent[i] = !is_in(operand, pass, c.parts);
        c.tensors[i] = (mfa_tensor_t)MFA_TENSOR_INIT;
        c.tensors[i].precision = format_of(operand);
        c.tensors[i].data = &memory[i];
        pack(&c.tensors[i], n[0], n[1], n[2], n[3]);
    }
    pack(&T(bool_mask), 1, 4, 1, 5);
    pack(&T(additive_mask), 2, 1, 3, 1);
    pack(&T(dbias), 2, 1, 3, 1);
    pack(&T(alibi_slopes), 1, 4, 1, 1);
    T(additive_mask).precision = MFA_PRECISION_FP16;
    c.desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    c.blocks.block_rows = c.blocks.block_keys = 2;
    c.key_quantization.rows = 1;
    c.value_quantization.rows = 2;
    if (c.parts >> MFAI_DESC_KEY_QUANTIZATION & 1)
        T(key).precision = MFA_PRECISION_INT8;
    if (c.parts >> MFAI_DESC_VALUE_QUANTIZATION & 1)
        T(value).precision = MFA_PRECISION_UINT4;
    for (int i = 0; i < 20; ++i)
        DATA(key_quantization.scales)[i] = DATA(value_quantization.scales)[i] = 0.5f;
    memset(&memory[number_of("key_quantization.zero_points")], 0, sizeof *memory);
    memset(&memory[number_of("value_quantization.zero_points")], 0, sizeof *memory);
    return c;
}

static mfai_problem_t problem; /* as the last call of import left it */

/* And looks at the scales, as a backend does that runs it. */
static mfa_status_t import(call *c) {
    void *const descs[] = {&c->desc,   &c->backward,         &c->sequences,         &c->pages, &c->blocks, &c->append,
                           &c->scales, &c->key_quantization, &c->value_quantization};
    for (int i = 0; i < MFAI_OPERANDS; ++i) {
        const mfa_tensor_t *tensor = c->absent[i] ? NULL : &c->tensors[i];
        memcpy((char *)descs[mfai_operands[i].described_by] + mfai_operands[i].tensor, &tensor, sizeof tensor);
    }
    c->desc.sequences = c->parts >> MFAI_DESC_SEQUENCES & 1 ? &c->sequences : NULL;
    c->desc.pages = c->parts >> MFAI_DESC_PAGES & 1 ? &c->pages : NULL;
    c->desc.blocks = c->parts >> MFAI_DESC_BLOCKS & 1 ? &c->blocks : NULL;
    c->desc.append = c->parts >> MFAI_DESC_APPEND & 1 ? &c->append : NULL;
    c->desc.scales = c->parts >> MFAI_DESC_SCALES & 1 ? &c->scales : NULL;
    c->desc.key_quantization = c->parts >> MFAI_DESC_KEY_QUANTIZATION & 1 ? &c->key_quantization : NULL;
    c->desc.value_quantization = c->parts >> MFAI_DESC_VALUE_QUANTIZATION & 1 ? &c->value_quantization : NULL;
    c->backward.forward = &c->desc;
    static bool is_imported;
    if (is_imported)
        mfai_problem_release(&problem);
    const mfa_status_t status =
        mfai_problem_import(c->context, c->pass, c->pass == MFAI_BACKWARD ? (void *)&c->backward : &c->desc, &problem);
    is_imported = status == MFA_SUCCESS;
    return is_imported ? mfai_quantization_check(&problem) : status;
}

/* Of a call that `make` makes, with a change. */
#define REFUSED_OF(make, change, status, fragment) \
    do {                                           \
        call c = make;                             \
        change;                                    \
        CHECK_FAILS(import(&c), status, fragment); \
    } while (0)
#define INVALID_OF(make, change, fragment) REFUSED_OF(make, change, MFA_ERROR_INVALID_ARGS, fragment)
#define FINE_OF(make, change)             \
    do {                                  \
        call c = make;                    \
        change;                           \
        CHECK(import(&c) == MFA_SUCCESS); \
    } while (0)

/* What holds of every operand of a call of these structs, by its row in the table. */
static void test_each_operand(call (*make)(mfa_context_t, mfai_pass_t), mfa_context_t context, mfai_pass_t pass) {
    call c = make(context, pass);
    CHECK(import(&c) == MFA_SUCCESS);
    for (int i = 0; i < MFAI_OPERANDS; ++i) {
        const mfai_operand_t *operand = &mfai_operands[i];
        c = make(context, pass);
        if (c.absent[i])
            continue;
        CHECK(import(&c) == MFA_SUCCESS);
        const mfai_use_t use = mfai_operand_use(operand, &problem);
        const bool needed = operand->use[pass] == MFAI_READ_ALWAYS || operand->use[pass] == MFAI_WRITE_ALWAYS;
        char text[64];
        c.absent[i] = true;
        snprintf(text, sizeof text, "%s is NULL", operand->name);
        if (needed)
            CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, text);

        for (int format = 0; format <= MFA_PRECISION_UINT4; ++format)
            if (!(operand->formats & MFAI_FORMAT_BIT(format))) {
                c = make(context, pass);
                c.tensors[i].precision = format;
                snprintf(text, sizeof text, "%s.precision is %s", operand->name, mfai_formats[format].name);
                CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, text);
            }

        for (int other = 0; other < MFAI_OPERANDS && mfai_is_written(use); ++other) {
            c = make(context, pass);
            if (other == i || c.absent[other])
                continue;
            CHECK(import(&c) == MFA_SUCCESS);
            const bool first = i < other || !mfai_is_written(mfai_operand_use(&mfai_operands[other], &problem));
            /* Lists keep what they say. */
            memory[i] = memory[other];
            c.tensors[other].data = &memory[i];
            snprintf(text, sizeof text, "%s overlaps %s", mfai_operands[first ? i : other].name,
                     mfai_operands[first ? other : i].name);
            CHECK_FAILS(import(&c), MFA_ERROR_INVALID_ARGS, text);
        }
    }
}

#endif

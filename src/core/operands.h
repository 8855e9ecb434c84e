/*
 * The operands of a call, one row each. Whatever is done to all of them reads this table: importing, checking shapes,
 * asking where they lie and whether results overlap them.
 */
#ifndef MFA_CORE_OPERANDS_H
#define MFA_CORE_OPERANDS_H

#include "core/problem.h"

/* What a pass does with an operand. */
typedef enum {
    MFAI_UNUSED,
    MFAI_READ, /* if it is there */
    MFAI_READ_ALWAYS,
    MFAI_WRITE, /* if it is there */
    MFAI_WRITE_ALWAYS,
    MFAI_UPDATE /* read and written */
} mfai_use_t;

/* The structs of mfa.h that have operands. */
typedef enum {
    MFAI_DESC_FORWARD,
    MFAI_DESC_BACKWARD,
    MFAI_DESC_SEQUENCES,
    MFAI_DESC_PAGES,
    MFAI_DESC_BLOCKS,
    MFAI_DESC_APPEND,
    MFAI_DESC_SCALES,
    MFAI_DESC_KEY_QUANTIZATION,
    MFAI_DESC_VALUE_QUANTIZATION
} mfai_desc_t;

/* Sets of them, as `described` is one: those that say how rows lie in sequences, and all others. */
enum {
    MFAI_PARTS_OF_SEQUENCES = 1 << MFAI_DESC_SEQUENCES | 1 << MFAI_DESC_PAGES | 1 << MFAI_DESC_APPEND,
    MFAI_OTHER_PARTS = 1 << MFAI_DESC_FORWARD | 1 << MFAI_DESC_BACKWARD | 1 << MFAI_DESC_BLOCKS |
                       1 << MFAI_DESC_SCALES | 1 << MFAI_DESC_KEY_QUANTIZATION | 1 << MFAI_DESC_VALUE_QUANTIZATION
};

/* Sizes that shapes are made of. Those that may be 1, which repeats the operand, are marked with MFAI_OR_ONE. */
enum {
    MFAI_ONE,
    MFAI_ANY, /* whatever it is */
    MFAI_BATCH,
    MFAI_STARTS, /* one more */
    MFAI_HEADS,
    MFAI_KV_HEADS,
    MFAI_QUERIES, /* of the longest sequence */
    MFAI_KEYS,
    MFAI_QUERY_BATCH, /* as query has it, and so on: with sequences and pages other sizes */
    MFAI_QUERY_ROWS,
    MFAI_KEY_BATCH,
    MFAI_KEY_ROWS,
    MFAI_HEAD_DIM,
    MFAI_VALUE_DIM,
    MFAI_NEW_BATCH,
    MFAI_NEW_ROWS,    /* as append.key has it */
    MFAI_ROTARY_ROWS, /* as append.rotary_cos has it */
    MFAI_ROTARY_COLUMNS,
    MFAI_BLOCK_LINES, /* rows and columns of blocks, and of a block */
    MFAI_BLOCK_COLUMNS,
    MFAI_BLOCK_ROWS,
    MFAI_BLOCK_KEYS,
    MFAI_KEY_SCALE_ROWS, /* of stored rows and columns that share a scale */
    MFAI_KEY_SCALE_COLUMNS,
    MFAI_VALUE_SCALE_ROWS,
    MFAI_VALUE_SCALE_COLUMNS,
    MFAI_SIZES,
    MFAI_OR_ONE = 64
};

typedef struct mfai_operand {
    const char *name;
    mfai_desc_t described_by; /* the struct that has it */
    size_t tensor;            /* offset of its pointer there */
    size_t view;              /* offset in mfai_problem_t */
    unsigned formats;         /* it may have */
    uint8_t shape[4];         /* MFAI_..., batch first; not used if `like` is set */
    const char *like;         /* a gradient: the operand that must be there and whose shape it has */
    uint8_t use[MFAI_PASSES]; /* mfai_use_t */
    const char *when_missing; /* behind "NAME is NULL", where more than that helps */
} mfai_operand_t;

enum { MFAI_OPERANDS = 46 };
extern const mfai_operand_t mfai_operands[MFAI_OPERANDS];

static inline bool mfai_is_written(int use) {
    return use == MFAI_WRITE || use == MFAI_WRITE_ALWAYS || use == MFAI_UPDATE;
}

static inline const mfai_view_t *mfai_operand_view(const mfai_operand_t *operand, const mfai_problem_t *problem) {
    return (const mfai_view_t *)((const char *)problem + operand->view);
}

/* What the problem's pass does with an operand. */
mfai_use_t mfai_operand_use(const mfai_operand_t *operand, const mfai_problem_t *problem);

/* Imports the operands that one struct has into the problem. */
mfa_status_t mfai_operands_import(mfa_context_t context, mfai_desc_t described_by, const void *desc,
                                  mfai_problem_t *problem);

/* Checks the shapes of the operands of these structs against the problem's sizes. */
mfa_status_t mfai_operands_check_shapes(const mfai_problem_t *problem, unsigned parts);

/* Checks that each result has elements of its own, which no other operand shares. */
mfa_status_t mfai_operands_check_results(const mfai_problem_t *problem);

#endif

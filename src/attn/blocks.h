/*
 * Which blocks of the scores count: bits made of a problem's lists, once a call, and what is asked of them.
 */
#ifndef MFA_ATTN_BLOCKS_H
#define MFA_ATTN_BLOCKS_H

#include "core/problem.h"
#include "mfa_rules.h"

/* Whether lists are not the same along an axis, 0 (batches) or 1 (heads). */
bool mfai_blocks_differ(const mfai_problem_t *problem, int axis);

/* Bytes of memory, aligned to 4, for what is made of the lists; -1 if they leave 63 bits. */
int64_t mfai_blocks_bytes(const mfai_problem_t *problem);

/* Lets `blocks`, `full_blocks` and `mask_tiles` be views of the memory, and returns how many lines they have, each a
   row of blocks of a batch and head. */
int64_t mfai_blocks_place(mfai_problem_t *problem, void *memory);

/* Fills these lines of them. */
void mfai_blocks_fill(const mfai_problem_t *problem, mfa_span lines);

/* How many blocks count in these lines of a batch and head. */
int64_t mfai_blocks_count(const mfai_problem_t *problem, int64_t batch, int64_t head, mfa_span lines);

/* The blocks of one line. Where it has a mask tile for each of its partial blocks, these are numbered in order. */
typedef struct {
    const uint32_t *visible;
    const uint32_t *full; /* in these nothing else hides pairs; NULL: in all or none */
    const int32_t *tiles; /* NULL: there are none */
    bool is_masked;       /* something else hides pairs in blocks that are not full */
} mfai_block_line_t;

mfai_block_line_t mfai_block_line(const mfai_problem_t *problem, int64_t batch, int64_t head, int64_t line);

typedef enum { MFAI_BLOCK_HIDDEN, MFAI_BLOCK_PARTIAL, MFAI_BLOCK_FULL } mfai_block_kind_t;

static inline mfai_block_kind_t mfai_block_kind(const mfai_block_line_t *line, int64_t block) {
    if (!mfa_rule_bit(line->visible[block / MFA_BLOCK_BITS], block))
        return MFAI_BLOCK_HIDDEN;
    const bool full =
        !line->is_masked || (line->full != NULL && mfa_rule_bit(line->full[block / MFA_BLOCK_BITS], block));
    return full ? MFAI_BLOCK_FULL : MFAI_BLOCK_PARTIAL;
}

/* Whether nothing is hidden in blocks first .. end - 1. */
static inline bool mfai_blocks_are_full(const mfai_block_line_t *line, mfa_span blocks) {
    for (int64_t block = blocks.begin; block < blocks.end; ++block)
        if (mfai_block_kind(line, block) != MFAI_BLOCK_FULL)
            return false;
    return true;
}

/* The tile that hides pairs in a partial block; -1: none. */
int32_t mfai_block_tile(const mfai_block_line_t *line, int64_t block);

#endif

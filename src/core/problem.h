/*
 * A validated, normalised attention call. Backends read this and nothing else: nothing past this point checks or
 * interprets arguments again.
 */
#ifndef MFA_CORE_PROBLEM_H
#define MFA_CORE_PROBLEM_H

#include "core/tensor.h"

typedef enum { MFAI_FORWARD, MFAI_BACKWARD, MFAI_PASSES } mfai_pass_t;

/* What a call uses beside products and a softmax; a set of them is a sum. */
enum {
    MFAI_LOGSUMEXP = 1 << 0,
    MFAI_BOOL_MASK = 1 << 1,
    MFAI_ADDITIVE_MASK = 1 << 2,
    MFAI_ALIBI = 1 << 3,
    MFAI_SINKS = 1 << 4,
    MFAI_SOFTCAP = 1 << 5,
    MFAI_DROPOUT = 1 << 6,
    MFAI_EXACT_WEIGHTS = 1 << 7, /* softmax weights stay float32 */
    MFAI_BLOCKS = 1 << 8,

    MFAI_BIASES = MFAI_BOOL_MASK | MFAI_ADDITIVE_MASK | MFAI_ALIBI | MFAI_BLOCKS /* added to scores, one by one */
};

typedef struct mfai_problem {
    mfai_pass_t pass;
    unsigned features;                     /* MFAI_LOGSUMEXP and so on */
    int64_t batch, heads, kv_heads, group; /* group = heads / kv_heads */
    int64_t query_count, key_count, head_dim, value_dim;
    /* Operands, as src/core/operands.c has them; along an axis on which one repeats, its size is 1 and its stride 0. */
    mfai_view_t query, key, value, out, logsumexp;
    mfai_view_t bool_mask, additive_mask, alibi_slopes, sinks;
    mfai_view_t dout, dquery, dkey, dvalue, dbias,
        dsinks; /* of a backward call; gradients not present are not wanted */
    /* Blocks of the scores that count: mfa_rules.h, MFA_BLOCK_BITS. (B or 1, H or 1, rows of blocks, words), the words
       of a row side by side. No descriptor has them yet. */
    mfai_view_t blocks;
    int64_t block_rows, block_keys;            /* of a block */
    float softmax_scale;                       /* literal */
    float softcap;                             /* 0: off */
    int64_t offset, window_left, window_right; /* for mfa_rules.h; causal is window_right = 0; -1: unbounded */
    float dropout_p;                           /* 0: off */
    uint64_t dropout_seed, dropout_offset;
} mfai_problem_t;

/* Whether an operand lies in memory that only the device can reach. */
bool mfai_problem_is_on_device(const mfai_problem_t *problem);

/* Completes `features` by what operands and options say. */
void mfai_problem_find_features(mfai_problem_t *problem);

/* Checks `desc`, the pass's descriptor, against every rule that does not depend on a backend. */
mfa_status_t mfai_problem_import(mfa_context_t context, mfai_pass_t pass, const void *desc, mfai_problem_t *problem);

#endif

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
    MFAI_SEQUENCES = 1 << 9, /* lengths or places of their own */
    MFAI_PAGES = 1 << 10,
    MFAI_CHUNK = 1 << 11,
    MFAI_APPEND = 1 << 12,
    MFAI_ROTARY = 1 << 13,
    MFAI_QUERY_VALUE = 1 << 14,
    MFAI_SCALES = 1 << 15,
    MFAI_KEY_CODES = 1 << 16,
    MFAI_VALUE_CODES = 1 << 17,
    MFAI_INT8 = 1 << 18, /* products of codes are computed in integers */
    MFAI_ZERO_CLIPPED = 1 << 19,

    MFAI_BIASES = MFAI_ADDITIVE_MASK | MFAI_ALIBI, /* added to scores, one by one */
    MFAI_HIDING = MFAI_BOOL_MASK | MFAI_BLOCKS     /* hides scores, one by one, and changes no other */
};

/* What codes stand for: scale * (code - zero point) + mean. */
typedef struct mfai_quantization {
    int64_t rows, columns; /* that share a scale; 0: all */
    mfai_view_t scales, zero_points, mean;
} mfai_quantization_t;

/* How many rows of a sequence are there. */
typedef struct mfai_length {
    int64_t queries, keys;  /* keys with those that are appended */
    int64_t new_first, new; /* the rows that are appended: keys new_first .. new_first + new - 1 */
    int64_t rotary;         /* position of query 0 and of the first of these */
} mfai_length_t;

/* What the lists of sequences and pages come to, where the CPU can read them. One allocation. */
typedef struct mfai_tables mfai_tables_t;

typedef struct mfai_problem {
    mfai_pass_t pass;
    unsigned features;                     /* MFAI_LOGSUMEXP and so on */
    unsigned described;                    /* the structs that describe it, 1 << MFAI_DESC_... */
    uint64_t operands;                     /* those that are present, 1 << their row in the table */
    int64_t batch, heads, kv_heads, group; /* batch: sequences; group = heads / kv_heads */
    int64_t query_count, key_count;        /* the most that a sequence has, in the sizes of masks */
    int64_t head_dim, value_dim;
    /* Operands, as src/core/operands.c has them; along an axis on which one repeats, its size is 1 and its stride 0. */
    mfai_view_t query, key, value, out, logsumexp;
    mfai_view_t bool_mask, additive_mask, alibi_slopes, sinks;
    mfai_view_t dout, dquery, dkey, dvalue, dbias,
        dsinks;        /* of a backward call; gradients not present are not wanted */
    mfai_view_t delta; /* read if `out` is not present */
    mfai_view_t dlogsumexp;
    mfai_view_t query_starts, key_starts, query_lengths, key_lengths, left_padding, key_batches, page_table;
    mfai_view_t kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, block_mask, masks, mask_indices;
    mfai_view_t new_key, new_value, new_starts, rotary_cos, rotary_sin, rotary_positions;
    mfai_view_t query_value, query_scale, key_scale, value_scale;
    mfai_quantization_t key_quantization, value_quantization; /* of codes; nothing is present in those of floats */
    mfai_tables_t *tables;        /* NULL: there are no lists, or none that the CPU can read */
    const mfai_length_t *lengths; /* of each sequence; NULL: all are query_count and key_count, or as the lists say */
    /* Blocks of the scores that count, and those of them in which bool_mask does not count: mfa_rules.h,
       MFA_BLOCK_BITS. (B or 1, H or 1, rows of blocks, words), the words of a row side by side. A backend makes them of
       the lists. */
    mfai_view_t blocks, full_blocks;
    mfai_view_t mask_tiles; /* likewise, for the blocks of a row that count but are not full, in order: which of `masks`
                               hides pairs in it; -1: none */
    int64_t block_rows, block_keys;    /* of a block */
    bool is_bottom_right;              /* where rows stand among the keys: offset = keys - queries, else 0 */
    bool is_interleaved;               /* rotary pairs are neighbours */
    int64_t chunk;                     /* 0: off */
    float softmax_scale;               /* literal */
    float softcap;                     /* 0: off */
    int64_t window_left, window_right; /* for mfa_rules.h; causal is window_right = 0; -1: unbounded */
    float dropout_p;                   /* 0: off */
    uint64_t dropout_seed, dropout_offset;
} mfai_problem_t;

/* Whether an operand lies in memory that only the device can reach. */
bool mfai_problem_is_on_device(const mfai_problem_t *problem);

/* Whether the rotary positions of queries follow each other; else all have the first's. */
static inline bool mfai_queries_step(const mfai_problem_t *p) {
    return p->window_left >= 0 || p->window_right >= 0 || p->chunk > 0;
}

/* Completes `features` by what operands and options say. */
void mfai_problem_find_features(mfai_problem_t *problem);

/* Checks `desc`, the pass's descriptor, against every rule that does not depend on a backend. On success the problem is
   to be released. */
mfa_status_t mfai_problem_import(mfa_context_t context, mfai_pass_t pass, const void *desc, mfai_problem_t *problem);
void mfai_problem_release(mfai_problem_t *problem);

#endif

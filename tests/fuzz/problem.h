/*
 * A small attention call that is right in every respect, decoded from the fuzzer's bytes: any features together, any
 * strides. Each operand has a block of memory of its own, no longer than it needs, so that AddressSanitizer sees who
 * leaves it; what lies between its elements is NaN and watched.
 */
#ifndef FUZZ_PROBLEM_H
#define FUZZ_PROBLEM_H

#include "harness.h"

enum {
    QUERY,
    KEY,
    VALUE,
    OUT,
    LOGSUMEXP,
    BOOL_MASK,
    ADDITIVE_MASK,
    ALIBI_SLOPES,
    SINKS,
    DOUT,
    DLOGSUMEXP,
    DQUERY,
    DKEY,
    DVALUE,
    DBIAS,
    DSINKS,
    QUERY_STARTS, /* lists, from here on */
    KEY_STARTS,
    QUERY_LENGTHS,
    KEY_LENGTHS,
    LEFT_PADDING,
    KEY_BATCHES,
    PAGE_TABLE,
    KV_NUM_BLOCKS,
    KV_INDICES,
    FULL_KV_NUM_BLOCKS,
    FULL_KV_INDICES,
    BLOCK_MASK,
    KEY_SCALES, /* what codes stand for, from here on */
    KEY_ZERO_POINTS,
    KEY_MEAN,
    VALUE_SCALES,
    VALUE_ZERO_POINTS,
    OPERANDS
};

/* Whether a call has an operand. */
static inline bool is_of_call(int operand, bool backward) { return backward || operand < DOUT || operand > DSINKS; }

extern const char *const operand_names[OPERANDS];

typedef struct {
    bool present, in_buffer;
    mfa_tensor_t tensor;
    unsigned char *memory, *before; /* the block, and what was in it before a call */
    size_t bytes, first;            /* its size, and where element 0, 0, 0, 0 lies */
} operand_t;

/* Where the rows of a sequence lie. */
typedef struct {
    int64_t queries, query_batch, query_row;
    int64_t keys, key_batch, key_row;
    int64_t pages[2]; /* if there are pages, in place of the batch */
} sequence_t;

enum { MOST_SEQUENCES = 3 };

typedef struct {
    operand_t operands[OPERANDS];
    int64_t sequence_count;
    sequence_t sequence[MOST_SEQUENCES];
    mfa_sequences_t sequences;
    mfa_pages_t pages;
    mfa_blocks_t blocks;
    mfa_quantization_t key_quantization, value_quantization;
    int64_t lines, columns; /* of blocks */
    unsigned char *kinds;   /* (B, H, lines, columns): 0 hidden, 1 visible, 2 full; NULL: there are no blocks */
    mfa_attention_desc_t forward;
    mfa_attention_backward_desc_t backward;
    bool has_backward;
} problem_t;

/* `work` bounds B * H * Nq * Nkv * (D + Dv). Keys and values may have codes if `with_codes`. */
void problem_read(reader_t *r, int64_t work, bool with_codes, problem_t *problem);
void problem_free(problem_t *problem);

/* Points operands that are to be in a buffer to one of this context over their memory; unbind destroys the buffers. */
void problem_bind(problem_t *problem, mfa_context_t context);
void problem_unbind(problem_t *problem);

/* Where the descriptors point to an operand's tensor. */
const mfa_tensor_t **problem_slot(problem_t *problem, int operand);

int precision_size(int32_t precision);

/* An element as a double; a size of 1 serves every index. */
double operand_at(const operand_t *operand, int64_t b, int64_t h, int64_t i, int64_t j);

static inline bool has_codes(const operand_t *o) {
    return o->tensor.precision == MFA_PRECISION_INT8 || o->tensor.precision == MFA_PRECISION_UINT8 ||
           o->tensor.precision == MFA_PRECISION_INT4 || o->tensor.precision == MFA_PRECISION_UINT4;
}

/* Fills the memory of `written` operands, a set of bits, with NaN, and notes the memory of all. */
void problem_before(problem_t *problem, uint64_t written);

/* Fails if memory has changed that is no element of a `written` operand. */
void problem_expect_unchanged(const problem_t *problem, uint64_t written, const char *call);

/* What an output has, for comparing runs; the caller's to free. */
unsigned char *problem_snapshot(const problem_t *problem, int operand);

void problem_print(const problem_t *problem);

#define BIT(operand) (UINT64_C(1) << (operand))
static const uint64_t FORWARD_WRITES = BIT(OUT) | BIT(LOGSUMEXP);
static const uint64_t BACKWARD_WRITES = BIT(DQUERY) | BIT(DKEY) | BIT(DVALUE) | BIT(DBIAS) | BIT(DSINKS);

#endif

/* What an instance of the generic kernels offers to the rest of the CPU backend. */
#ifndef MFA_CPU_KERNELS_H
#define MFA_CPU_KERNELS_H

#include "core/problem.h"

/*
 * The kernels multiply 32-bit words: one float, or two 16-bit floats that a dot-product instruction takes at once.
 * Everything below that counts "words" is in that unit along the summed dimension.
 */
typedef struct mfai_forward_tile {
    int lanes;      /* floats in a vector */
    int panel;      /* columns of a packed panel */
    int sub_rows;   /* query rows whose scores are held at once */
    int word_depth; /* elements in a word: 1 or 2 */
} mfai_forward_tile_t;

/* Sizes that depend on the problem only, so that results do not depend on the machine's width. */
typedef struct mfai_forward_shape {
    int64_t rows; /* query rows that share a key/value head: group * query_count, position-major */
    int64_t chunk_rows, chunks;
    int64_t block_keys; /* keys packed at once */
    int64_t split_keys, splits;
    int64_t query_words, value_width; /* packed widths */
    int64_t tasks;
} mfai_forward_shape_t;

/* Offsets in floats into a thread's scratch memory. */
typedef struct mfai_forward_scratch {
    int64_t query, out, row_max, row_sum, keys, values, scores, bias, copy, zeros, size; /* zeros come last */
} mfai_forward_scratch_t;

typedef struct mfai_forward_job {
    const mfai_problem_t *problem;
    mfai_forward_shape_t shape;
    mfai_forward_scratch_t at;
    /* Running maxima are kept in units in which weights are cheap. Plain scores: products times score_factor, in units of log2.
       With a score pass, which finishes scores one by one (scale, softcap, biases, masks): natural units, since scores near the
       largest floats, as masks of finfo.min make, would overflow in others. */
    bool score_pass;
    float score_factor; /* times a product, or a finished score, is the unit of the maxima */
    float max_to_log2, max_to_natural;
    bool has_bias;     /* mask, additive mask or ALiBi */
    bool direct;       /* few rows: keys and values are read where they lie, not packed */
    bool negate_query; /* a negative scale moved into the queries, so that score_factor is positive */
    char *scratch;     /* at.size floats for each slot */
    float *partial;    /* with splits > 1: for each row and split value_width sums, then row_max, row_sum */
} mfai_forward_job_t;

typedef struct mfai_forward_kernel {
    const char *name;
    mfai_forward_tile_t tile;
    void (*task)(void *job, int64_t task, int slot);
    void (*combine)(void *job, int64_t task, int slot);
} mfai_forward_kernel_t;

typedef struct mfai_cpu_isa {
    int32_t id; /* MFA_CPU_ISA_... */
    const char *name;
    bool (*is_available)(void);
    const mfai_forward_kernel_t *forward_f32;  /* any inputs, converted to float32 */
    const mfai_forward_kernel_t *forward_bf16; /* bfloat16 inputs by dot products; NULL: none */
} mfai_cpu_isa_t;

/* Rows that one combine task takes. */
enum { MFAI_COMBINE_ROWS = 64 };

#endif

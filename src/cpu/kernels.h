/* What an instance of the generic kernels offers to the rest of the CPU backend. */
#ifndef MFA_CPU_KERNELS_H
#define MFA_CPU_KERNELS_H

#include "core/quantization.h"
#include "core/quantize.h"
#include "cpu/code_range.h"
#include "cpu/int8.h"
#include "mfa_philox.h"

typedef void (*mfai_cpu_kernel_task_fn)(void *job, int64_t task, int slot);

/*
 * The kernels multiply 32-bit words: one float, or two 16-bit floats or four codes that a dot-product instruction takes
 * at once.
 * Everything below that counts "words" is in that unit along the summed dimension.
 */
typedef struct mfai_cpu_tile {
    int lanes;      /* floats in a vector */
    int panel;      /* columns of a packed panel */
    int sub_rows;   /* query rows whose scores the forward pass holds at once: two register tiles */
    int word_depth; /* elements in a word: 1, 2 or 4 */
} mfai_cpu_tile_t;

typedef struct mfai_cpu_dropout {
    bool on;
    mfa_philox_key key;
    uint32_t threshold; /* bits below it drop a weight */
    float factor;       /* of the weights kept */
} mfai_cpu_dropout_t;

/* The tasks of one sequence, or of `batches` that are alike: chunks of rows by splits of keys, for each set of heads.
   Sizes depend on the problem only, so that results do not depend on the machine's width. */
typedef struct mfai_cpu_forward_part {
    int64_t batch, batches; /* the first, and how many */
    int64_t group;          /* heads whose rows are visited together: those that share a key/value head, or one alone */
    int64_t rows;           /* of them: group * queries, position-major */
    int64_t line_rows;      /* no sub-block holds rows on both sides of a multiple of as many; 0: any */
    int64_t chunk_rows, chunks;
    int64_t split_keys, splits;
    bool direct;                            /* few rows: keys and values are read where they lie, not packed */
    double cost;                            /* about as many scores */
    int64_t tasks;                          /* of them all, as the next two */
    int64_t combined_rows, partial_rows;    /* rows that are split, and those times their splits */
    int64_t first_task, first_combined_row; /* of all parts' */
    int64_t first_partial_row;
} mfai_cpu_forward_part_t;

/* What all parts share. */
typedef struct mfai_cpu_forward_shape {
    int64_t chunk_rows;               /* at the most */
    int64_t block_keys;               /* keys packed at once */
    int64_t query_words, value_width; /* packed widths */
    int64_t key_words; /* those of query_words that meet keys; what follows them, of query_value, meets values */
} mfai_cpu_forward_shape_t;

/* Offsets in floats into a thread's scratch memory. */
typedef struct mfai_cpu_forward_scratch {
    int64_t query, out, row_max, row_sum, keys, values, scores, value_scores, bias, drop_factors, rows, runs, copy,
        key_codes, value_codes, zeros, size; /* zeros come last */
} mfai_cpu_forward_scratch_t;

typedef struct mfai_cpu_forward_job {
    const mfai_problem_t *problem;
    mfai_cpu_forward_shape_t shape;
    mfai_cpu_forward_scratch_t scratch;
    mfai_cpu_int8_t int8;                 /* with MFAI_INT8 */
    const mfai_cpu_forward_part_t *parts; /* the costliest first */
    int64_t part_count;
    int64_t tasks, combined_rows; /* of all parts */
    const int64_t *order;         /* the tasks, in the order in which they are to begin; NULL: as they are numbered */
    /* Running maxima are kept in units in which weights are cheap. Plain scores: products times score_factor, in units
       of log2. With a score pass, which finishes scores one by one (scale, softcap, biases): natural units,
       since scores near the largest floats, as masks of finfo.min make, would overflow in others. */
    bool score_pass;
    float score_factor; /* times a product, or a finished score, is the unit of the maxima */
    float max_to_log2, max_to_natural;
    bool has_bias;     /* MFAI_BIASES or MFAI_HIDING */
    bool negate_query; /* a negative scale moved into the queries, so that score_factor is positive */
    mfai_cpu_dropout_t dropout;
    char *memory;   /* scratch.size floats for each slot */
    float *partial; /* for each row that is split and each split: value_width sums, then row_max, row_sum */
} mfai_cpu_forward_job_t;

/* Offsets in floats into a thread's scratch memory. */
typedef struct mfai_cpu_append_scratch {
    int64_t row, cosines, sines, copy, highs, lows, scales, zero_points, mean, bytes, size;
} mfai_cpu_append_scratch_t;

typedef struct mfai_cpu_append_job {
    const mfai_problem_t *problem;
    mfai_cpu_kernel_task_fn run;
    mfai_view_t queries; /* where they are, once turned */
    bool turns;          /* there are rotary tables */
    int64_t task_rows, blocks, tasks;
    int width;
    mfai_cpu_append_scratch_t scratch;
    char *memory; /* scratch.size floats for each slot, then the turned queries */
} mfai_cpu_append_job_t;

/* Offsets in floats into a thread's scratch memory. */
typedef struct mfai_cpu_quantise_scratch {
    int64_t row, highs, lows, most, bytes, copy, size;
} mfai_cpu_quantise_scratch_t;

typedef struct mfai_cpu_quantise_job {
    const mfai_quantize_t *call;
    mfai_cpu_code_range_t range;
    int64_t width;                    /* columns, padded to whole vectors */
    int64_t task_rows, blocks, tasks; /* rows of a task, blocks of as many in a head, tasks of all heads */
    int64_t groups;                   /* scales in a line */
    int64_t lines, task_lines;        /* of scales, over all heads */
    bool owns_scales;                 /* no scale is that of two tasks */
    int threads;
    mfai_cpu_quantise_scratch_t scratch;
    char *memory;                /* scratch.size floats for each slot */
    float *scales, *zero_points; /* of each line; first, how far values reach above 0 and below */
    float *means;                /* width of each head that has its own; NULL: none */
    double *sums;                /* of each task: width sums of columns, then as many counts */
    bool has_others, has_beyond; /* elements that are not finite; scales beyond their precision; atomic */
} mfai_cpu_quantise_job_t;

/* The number of a head, of those that a view with the sizes of some axes at 1 has. */
static inline int64_t mfai_cpu_shared_head(const mfai_view_t *view, int64_t b, int64_t h) {
    return (view->shape[0] == 1 ? 0 : b) * view->shape[1] + (view->shape[1] == 1 ? 0 : h);
}

/* The first scale of a line. */
static inline int64_t mfai_cpu_scale_cell(const mfai_cpu_quantise_job_t *job, int64_t b, int64_t h, int64_t line) {
    const mfai_view_t *scales = &job->call->quantization.scales;
    return (mfai_cpu_shared_head(scales, b, h) * scales->shape[2] + line) * job->groups;
}

/* The most query rows and keys in a block of the backward pass; the rows are a multiple of every instance's
   sub_rows. */
enum { MFAI_CPU_BACKWARD_ROWS = 96, MFAI_CPU_BACKWARD_KEYS = 384 };

typedef struct mfai_cpu_backward_shape {
    int64_t block_rows, row_blocks; /* of one query head of the longest sequence */
    int64_t block_keys, key_blocks;
    int64_t query_words, value_words; /* of a row, padded to whole vectors */
    int64_t query_width, value_width; /* columns, padded to whole panels */
    int64_t stride;                   /* of a row of scores */
    int64_t word_stride;              /* of a row of their gradients as words */
} mfai_cpu_backward_shape_t;

/* One sequence. Rows and blocks of all sequences are numbered one after the other, in each sequence by head. */
typedef struct mfai_cpu_backward_sequence {
    int64_t batch, queries, keys;
    int64_t row_blocks, key_blocks, prepare_blocks;                /* of one head */
    int64_t rows_before, row_blocks_before, prepare_blocks_before; /* of one head, in sequences before it */
} mfai_cpu_backward_sequence_t;

/* Offsets in floats into a thread's scratch memory. Each operand is packed in the forms in which products take it: rows
   for the left side, columns or panels (pack_keys, pack_values) for the right. */
typedef struct mfai_cpu_backward_scratch {
    int64_t query_rows, query_panels, dout_rows, dout_panels, key_columns, key_panels, value_columns;
    int64_t dkey, dvalue, scores, dscores, dscore_rows, sums, bias, drop_factors, rows, copy, codes, zeros,
        size; /* zeros come last */
} mfai_cpu_backward_scratch_t;

typedef struct mfai_cpu_backward_job {
    const mfai_problem_t *problem;
    mfai_cpu_backward_shape_t shape;
    mfai_cpu_backward_scratch_t scratch;
    float factor, factor_rest; /* from a product to log2 of its weight, but for logsumexp: the sum of both */
    bool finish_scores;        /* scores need more than a factor: softcap, biases, a factor that is not finite */
    bool has_bias;             /* MFAI_BIASES or MFAI_HIDING */
    bool bias_pass;            /* gradients are those of the biases, before scale and softcap */
    mfai_cpu_dropout_t dropout;
    mfai_cpu_backward_sequence_t alike;            /* any of them, but for its batch and what is before it */
    const mfai_cpu_backward_sequence_t *sequences; /* NULL: they are alike; else those with most blocks of keys come
                                                      first, unless for dbias, which has them by batch */
    /* Key/value heads, counted over all sequences, whose dquery is summed at the same time: first_head on, `heads` of
       them. */
    int64_t first_head, heads;
    int64_t *block_tasks; /* tasks of these heads for their blocks of keys before the first, the second and so on */
    int64_t most_blocks;  /* of keys, of one of these heads */
    int64_t first_block;  /* of MFAI_CPU_PREPARE_ROWS rows, of the first of these heads */
    int64_t sum_rows;     /* for which there is memory in dquery */
    char *memory;         /* scratch.size floats for each slot */
    float *delta;         /* for each sequence, head and row: dout . out - dlogsumexp */
    float *taint;         /* likewise: 0, or NaN if dout holds what is not finite */
    float *dquery;   /* for each query row of these heads query_width sums; NULL: added up in the gradient itself */
    uint32_t *turns; /* for each sequence, head and row block: 1 + the last key block that was visited, or 0 */
} mfai_cpu_backward_job_t;

static inline mfai_cpu_backward_sequence_t mfai_cpu_backward_sequence(const mfai_cpu_backward_job_t *job,
                                                                      int64_t number) {
    if (job->sequences != NULL)
        return job->sequences[number];
    mfai_cpu_backward_sequence_t sequence = job->alike;
    sequence.batch = number;
    sequence.rows_before = number * sequence.queries;
    sequence.row_blocks_before = number * sequence.row_blocks;
    sequence.prepare_blocks_before = number * sequence.prepare_blocks;
    return sequence;
}

/* The number of a query row; one of the row behind the last is that of the next head's or sequence's first. */
static inline int64_t mfai_cpu_backward_row(const mfai_cpu_backward_job_t *job,
                                            const mfai_cpu_backward_sequence_t *sequence, int64_t head, int64_t row) {
    return job->problem->heads * sequence->rows_before + head * sequence->queries + row;
}

typedef struct mfai_cpu_kernels {
    const char *name;
    mfai_cpu_tile_t tile;
    mfai_cpu_kernel_task_fn forward, combine;
    mfai_cpu_kernel_task_fn append;                                         /* of a mfai_cpu_append_job_t */
    mfai_cpu_kernel_task_fn quantise_sum, quantise_ranges, quantise_encode; /* of a mfai_cpu_quantise_job_t */
    /* delta and taint, and zeros in dquery; the gradients, a block of keys a task; dquery from its sums,
       which are zeros again afterwards; dsinks; dbias. */
    mfai_cpu_kernel_task_fn backward_prepare, backward, backward_finish, backward_sinks, backward_bias;
} mfai_cpu_kernels_t;

typedef struct mfai_cpu_isa {
    int32_t id; /* MFA_CPU_ISA_... */
    const char *name;
    bool (*is_available)(void);
    const mfai_cpu_kernels_t *float32;  /* any inputs, converted to float32 */
    const mfai_cpu_kernels_t *bfloat16; /* bfloat16 inputs by dot products; NULL: none */
    const mfai_cpu_kernels_t *int8;     /* codes by dot products in integers; forward only */
} mfai_cpu_isa_t;

/* Rows that one backward_prepare or backward_finish task takes. */
enum { MFAI_CPU_PREPARE_ROWS = 64 };

/* Rows that one combine task takes. */
enum { MFAI_CPU_COMBINE_ROWS = 64 };

#endif

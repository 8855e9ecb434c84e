/* Where the scales and zero points of codes enter, if products are computed in integers (MFAI_INT8). */
#ifndef MFA_CPU_INT8_H
#define MFA_CPU_INT8_H

#include "core/problem.h"

enum {
    MFAI_CPU_INT8_KEYS = 128,       /* that share a scale of rounded weights, at most */
    MFAI_CPU_INT8_COLUMNS = 1 << 16 /* whose products are summed in 32 bits, at most */
};

/*
 * Of keys or values. Scales that do not vary from row to row are factors of columns: of the query before it is rounded,
 * of sums of values when all are there. Others are factors of scores or of weights; in groups of columns, there are as
 * many of these, and products are summed group by group. Where each column has scales of its own for some rows, none of
 * this holds, and a block's codes are made anew, with one scale for each column.
 */
typedef struct mfai_cpu_int8_side {
    int64_t groups, group_columns;
    bool row_scales, row_zeros; /* they vary from row to row */
    bool has_zeros;             /* a zero point, or what makes codes fit the instruction, is not 0 */
    bool remade;
} mfai_cpu_int8_side_t;

typedef struct mfai_cpu_int8 {
    mfai_cpu_int8_side_t key, value;
    bool in_place; /* few rows meet codes where they lie: none are remade, and groups are vectors of codes or halves */
    /* Offsets in floats into a thread's scratch memory. Of the chunk's rows, for each group of columns: the scale of the
       rounded query, its product with the mean, the sums of its codes, and what products begin with. */
    int64_t query_scales, query_means, query_sums, query_starts;
    /* Of columns: factors and zero points of the query's; the mean; one row of floats; zero points and factors of
       values. */
    int64_t key_factors, key_zeros, mean, row, value_zeros, value_factors;
    /* Of the block's rows, for each group. Zero points of values are bytes. */
    int64_t key_row_scales, key_row_zeros, value_row_scales, value_row_zeros;
    int64_t weights; /* rounded, of a register tile, for two groups of columns */
    int64_t bytes;   /* codes of a few rows, each in a byte; of remade ones those of all the block's */
    int64_t reals;   /* what those stand for */
} mfai_cpu_int8_t;

/* What is added to a code by turning its bits over, so that keys are unsigned and values signed. */
static inline int32_t mfai_cpu_int8_key_offset(int32_t format) { return -mfai_format_lowest(format); }
static inline int32_t mfai_cpu_int8_value_offset(int32_t format) {
    return format == MFAI_FORMAT_INT8 ? 0 : format == MFAI_FORMAT_UINT8 ? -128 : -mfai_format_lowest(format);
}

/* The most keys of a block. */
int64_t mfai_cpu_int8_most_keys(const mfai_problem_t *problem, int64_t most);

/* Lays out scratch memory behind `*size` floats. */
mfai_cpu_int8_t mfai_cpu_int8_plan(const mfai_problem_t *problem, int64_t chunk_rows, int64_t block_keys,
                                   int64_t value_width, int64_t tile_rows, int64_t lanes, int64_t *size);

#endif

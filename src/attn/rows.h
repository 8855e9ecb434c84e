/*
 * Where rows lie: a table of their addresses, filled once a block. What reads it does not know how an operand is laid
 * out.
 */
#ifndef MFA_ATTN_ROWS_H
#define MFA_ATTN_ROWS_H

#include "core/tensor.h"
#include "mfa_rules.h"

enum {
    MFAI_ROWS_MOST = 512,   /* in a table */
    MFAI_ROWS_PADDING = 16, /* rows of zeros that follow those of a block, unless it is a multiple of as many */
    MFAI_ROWS_AHEAD = 64,   /* at most so many rows are prefetched ahead */
    MFAI_ROWS_TABLE = MFAI_ROWS_MOST + MFAI_ROWS_PADDING + MFAI_ROWS_AHEAD
};

/* Rows a fixed number of bytes apart. */
typedef struct {
    const char *first; /* the block's first row, if it were one of them */
    int64_t ahead;     /* bytes from a row to the one to prefetch */
    int64_t end;       /* one past the last; numbers count from the block's first row */
} mfai_rows_run_t;

/* Memory for one table. */
typedef struct {
    const char **table;    /* MFAI_ROWS_TABLE addresses */
    mfai_rows_run_t *runs; /* mfai_rows_most_runs, where runs are asked for */
    char *copy;            /* room for the rows, if their elements lie apart */
    const char *zeros;     /* a row of them */
} mfai_rows_room_t;

/* Rows whose elements lie side by side. Behind the last there are rows of zeros, so that a pair or a vector of rows may
   lack some. */
typedef struct {
    const char *const *row; /* numbers count from the block's first row; row[i + ahead] may always be prefetched */
    int64_t count;          /* one past the last */
    int64_t ahead;
    int64_t columns;
    int32_t format;
} mfai_rows_t;

/* Likewise, but in runs, one after the other, for what has no time to read addresses. */
typedef struct {
    const mfai_rows_run_t *run; /* the first */
    int64_t step;               /* bytes from row to row, of each */
    int64_t columns;
    int32_t format;
    const char *zeros; /* a row of them */
} mfai_spaced_rows_t;

static inline char *mfai_view_row(const mfai_view_t *view, int64_t b, int64_t h, int64_t row) {
    mfai_place_t at = {b, row};
    if (view->layout != NULL)
        at = mfai_layout_place(view->layout, b, row);
    const int64_t element = at.batch * view->stride[0] + h * view->stride[1] + at.row * view->stride[2];
    return view->data + mfai_view_offset(view, element);
}

/* Bytes from one row to the next. */
static inline int64_t mfai_view_step(const mfai_view_t *view) { return mfai_view_offset(view, view->stride[2]); }

/* Rows to prefetch ahead: several short streams at once are beyond the hardware's prefetchers. */
static inline int64_t mfai_rows_ahead(const mfai_view_t *view) {
    const int64_t rows = 8192 / mfai_view_row_bytes(view);
    return rows < 1 ? 1 : rows > MFAI_ROWS_AHEAD ? MFAI_ROWS_AHEAD : rows;
}

/* Copies a row whose elements lie apart. */
void mfai_gather_row(const mfai_view_t *view, const char *row, char *copy);

/* Copies a row of one view to where another has one of as many columns, each with strides of its own. */
void mfai_copy_row(const mfai_view_t *from, const char *row, const mfai_view_t *to, char *target);

/* One row with its elements side by side: where it lies, or in `copy`. */
static inline const char *mfai_row_find(const mfai_view_t *view, int64_t b, int64_t h, int64_t row, char *copy) {
    const char *found = mfai_view_row(view, b, h, row);
    if (mfai_rows_are_contiguous(view))
        return found;
    mfai_gather_row(view, found, copy);
    return copy;
}

/* Rows first .. first + count - 1 of one head. No others are read. */
mfai_rows_t mfai_rows_find(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, int64_t count,
                           const mfai_rows_room_t *room);

/* As many runs as a block of the view's rows may have. */
static inline int64_t mfai_rows_most_runs(const mfai_view_t *view) {
    return view->layout != NULL && view->layout->pages != NULL ? MFAI_ROWS_MOST : 1;
}

/* Rows first + rows.begin .. first + rows.end - 1 of one head; `first` is the block's. No others are read, but those
   before `there` may be prefetched. */
mfai_spaced_rows_t mfai_rows_space(const mfai_view_t *view, int64_t b, int64_t h, int64_t first, mfa_span rows,
                                   int64_t there, const mfai_rows_room_t *room);

#endif

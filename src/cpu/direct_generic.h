/*
 * Products for a few query rows, as in decoding: keys and values are read where they lie, once for all rows that share
 * them, so that the time is that of reading memory. Packing them first would read, write and read again. Rows are
 * evenly spaced in runs: reading their addresses from a table took up to a tenth of the time.
 */
enum {
    DIRECT_ROWS = 4,                /* rows that one pass over keys or values serves */
    DIRECT_KEYS = VL / DIRECT_ROWS, /* keys whose products with those rows fill a vector */
    DIRECT_VALUE_KEYS = 16,         /* keys in one sum before it joins the others: short sums round less */
    DIRECT_VALUE_VECS = 4,
};

/* DIRECT_KEYS keys times `rows` queries: products[row * DIRECT_KEYS + key]. `coming` is what to prefetch for each. */
INLINE void direct_products(const int rows, const int32_t format, left_t query, const char *const keys[DIRECT_KEYS],
                            const char *const coming[DIRECT_KEYS], int64_t dim, float *products) {
    const int64_t words = words_of(dim);
    vf sum[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; ++i)
        sum[i] = vf_zero();
#pragma GCC unroll 4
    for (int k = 0; k < DIRECT_KEYS; ++k) { /* one key after the other, for the hardware's prefetchers */
        __builtin_prefetch(coming[k] + mfai_format_bytes(format, dim) - 1); /* its line more, if it begins inside one */
        for (int64_t at = 0; at < words; at += VL) {
            const vf key = load_words(keys[k], format, at, dim);
            __builtin_prefetch(coming[k] + at * (int64_t)mfai_format_bytes(format, 1) * WORD_DEPTH);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
                const vf q = vf_load(query.first + r * query.stride + at);
                sum[r * DIRECT_KEYS + k] = WORD_FMA(q, key, sum[r * DIRECT_KEYS + k]);
            }
        }
    }
    vf_store(products, vf_sum_each(sum));
}

/* Addresses of DIRECT_KEYS keys from j on, of which n are there, and of what to prefetch; returns the last one's
   run. */
INLINE const mfai_rows_run_t *direct_keys(const mfai_rows_run_t *run, int64_t step, int64_t j, int n,
                                          const char *keys[DIRECT_KEYS], const char *coming[DIRECT_KEYS]) {
#pragma GCC unroll 4
    for (int k = 0; k < DIRECT_KEYS; ++k) {
        keys[k] = run->first + (j + (k < n ? k : 0)) * step;
        coming[k] = keys[k] + run->ahead;
    }
    for (int k = (int)(run->end - j); k < n; ++k) {
        while (j + k >= run->end)
            ++run;
        keys[k] = run->first + (j + k) * step;
        coming[k] = keys[k] + run->ahead;
    }
    return run;
}

INLINE void direct_scores_for(const int rows, const int32_t format, const mfai_spaced_rows_t *keys, left_t query,
                              mfa_span seen, sums_t scores) {
    const int64_t step = keys->step, dim = keys->columns;
    const mfai_rows_run_t *run = keys->run;
    for (int64_t j = seen.begin; j < seen.end; j += DIRECT_KEYS) {
        const int n = (int)(seen.end - j < DIRECT_KEYS ? seen.end - j : DIRECT_KEYS);
        const char *some[DIRECT_KEYS], *coming[DIRECT_KEYS];
        while (j >= run->end)
            ++run;
        run = direct_keys(run, step, j, n, some, coming);
        float products[VL];
        direct_products(rows, format, query, some, coming, dim, products);
        for (int r = 0; r < rows; ++r)
            for (int k = 0; k < n; ++k)
                scores.first[r * scores.stride + j + k] = products[r * DIRECT_KEYS + k];
    }
}

/* Rows as a constant, so that sums stay in registers. */
INLINE void direct_scores_as(const int32_t format, int rows, const mfai_spaced_rows_t *keys, left_t query,
                             mfa_span seen, sums_t scores) {
    switch (rows) {
    case 1:
        direct_scores_for(1, format, keys, query, seen, scores);
        return;
    case 2:
        direct_scores_for(2, format, keys, query, seen, scores);
        return;
    case 3:
        direct_scores_for(3, format, keys, query, seen, scores);
        return;
    default:
        direct_scores_for(DIRECT_ROWS, format, keys, query, seen, scores);
    }
}

/* Scores of the keys that are seen. */
static void direct_scores(const mfai_spaced_rows_t *keys, left_t query, int rows, mfa_span seen, sums_t scores) {
    for (int r = 0; r < rows; r += DIRECT_ROWS) {
        const left_t some = {query.first + r * query.stride, query.stride};
        const sums_t to = {scores.first + r * scores.stride, scores.stride};
#define SCORES(format) direct_scores_as(format, rows - r, keys, some, seen, to)
        WITH_WORD_FORMAT(keys->format, SCORES)
#undef SCORES
    }
}

/* Where to prefetch next. Values are read in passes over their columns, but memory is fastest in the order of its
   lines. */
typedef struct {
    const char *row;
    int64_t at, bytes, step; /* in the row, of a row, and from row to row */
} coming_t;

INLINE void prefetch_coming(coming_t *coming, const int64_t bytes) {
#pragma GCC unroll 4
    for (int64_t line = 0; line < bytes; line += 64)
        __builtin_prefetch(coming->row + coming->at + line);
    coming->at += bytes;
    if (coming->at >= coming->bytes) {
        __builtin_prefetch(coming->row + coming->bytes - 1); /* in a line more, if it begins inside one */
        coming->at -= coming->bytes;
        coming->row += coming->step;
    }
}

/* Row j; `alone` if it is known to lie in *run, else that becomes the run that it lies in. */
INLINE const char *direct_value(const bool alone, const mfai_rows_run_t **run, int64_t step, int64_t j) {
    if (!alone)
        while (j >= (*run)->end)
            ++*run;
    return (*run)->first + j * step;
}

/* out (rows x vecs * VL) += weights . values from `column` on, over the keys that are seen, the first of which lies in
   `run`; `alone` if all do, and `whole` if none of the columns is missing. Where words hold two keys and the first or
   last lacks its partner, zeros stand in: nothing unseen is read, and an infinity does not meet the partner's weight,
   0. */
INLINE void direct_add(const int rows, const int vecs, const bool whole, const bool alone, const int32_t format,
                       const mfai_spaced_rows_t *values, const mfai_rows_run_t *run, coming_t *coming, int64_t column,
                       left_t weights, mfa_span seen, sums_t out) {
    const int64_t step = values->step, columns = values->columns;
    const int64_t bytes = vecs * VL * mfai_format_bytes(format, 1);
    vf sum[DIRECT_ROWS][DIRECT_VALUE_VECS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = vf_zero();
    for (int64_t w = seen.begin / WORD_DEPTH; w * WORD_DEPTH < seen.end; ++w) {
        const int64_t first = w * WORD_DEPTH, last = first + WORD_DEPTH - 1;
        const char *even = first < seen.begin ? values->zeros : direct_value(alone, &run, step, first);
        if (!alone) /* the next rows do not follow each other as these do */
            for (int64_t line = 0; line < bytes; line += 64)
                __builtin_prefetch(even + run->ahead + mfai_format_bytes(format, column) + line);
        const char *odd = last < seen.end ? direct_value(alone, &run, step, last) : values->zeros;
        if (!alone && WORD_DEPTH == 2)
            for (int64_t line = 0; line < bytes; line += 64)
                __builtin_prefetch(odd + run->ahead + mfai_format_bytes(format, column) + line);
        vf value[DIRECT_VALUE_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) {
            const int64_t at = column + v * VL;
            value[v] = load_value_words(even, odd, format, at, whole || columns - at >= VL ? VL : (int)(columns - at));
        }
        for (int d = 0; d < WORD_DEPTH && alone; ++d)
            prefetch_coming(coming, bytes);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const vf weight = vf_set1(weights.first[r * weights.stride + w]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                sum[r][v] = WORD_FMA(weight, value[v], sum[r][v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) {
            float *to = out.first + r * out.stride + column + v * VL;
            vf_store(to, vf_add(vf_load(to), sum[r][v]));
        }
}

/* Of a few keys: all columns. */
INLINE void direct_add_columns(const int rows, const bool alone, const int32_t format, const mfai_spaced_rows_t *values,
                               const mfai_rows_run_t *run, left_t weights, mfa_span some, sums_t out) {
    const int64_t columns = values->columns;
    coming_t coming = {run->first + some.begin * values->step + run->ahead, 0, columns * mfai_format_bytes(format, 1),
                       values->step};
    int64_t column = 0;
    for (; column + DIRECT_VALUE_VECS * VL <= columns; column += DIRECT_VALUE_VECS * VL)
        direct_add(rows, DIRECT_VALUE_VECS, true, alone, format, values, run, &coming, column, weights, some, out);
    if (column + (DIRECT_VALUE_VECS - 1) * VL < columns)
        direct_add(rows, DIRECT_VALUE_VECS, false, alone, format, values, run, &coming, column, weights, some, out);
    else
        for (; column < columns; column += VL)
            direct_add(rows, 1, false, alone, format, values, run, &coming, column, weights, some, out);
}

/* Which keys share a sum does not depend on runs, nor do bits on where rows lie. */
INLINE void direct_values_for(const int rows, const int32_t format, const mfai_spaced_rows_t *values, left_t weights,
                              mfa_span seen, sums_t out) {
    const mfai_rows_run_t *run = values->run;
    for (int64_t j = seen.begin; j < seen.end; j = j / DIRECT_VALUE_KEYS * DIRECT_VALUE_KEYS + DIRECT_VALUE_KEYS) {
        while (j >= run->end)
            ++run;
        const int64_t end = (j / DIRECT_VALUE_KEYS + 1) * DIRECT_VALUE_KEYS;
        const mfa_span some = mfa_span_of(j, end < seen.end ? end : seen.end);
        if (some.end <= run->end)
            direct_add_columns(rows, true, format, values, run, weights, some, out);
        else
            direct_add_columns(rows, false, format, values, run, weights, some, out);
    }
}

INLINE void direct_values_as(const int32_t format, int rows, const mfai_spaced_rows_t *values, left_t weights,
                             mfa_span seen, sums_t out) {
    switch (rows) {
    case 1:
        direct_values_for(1, format, values, weights, seen, out);
        return;
    case 2:
        direct_values_for(2, format, values, weights, seen, out);
        return;
    case 3:
        direct_values_for(3, format, values, weights, seen, out);
        return;
    default:
        direct_values_for(DIRECT_ROWS, format, values, weights, seen, out);
    }
}

/* out += weights . values for at most DIRECT_ROWS rows, over the keys that are seen. */
static void direct_values(const mfai_spaced_rows_t *values, left_t weights, int rows, mfa_span seen, sums_t out) {
#define VALUES(format) direct_values_as(format, rows, values, weights, seen, out)
    WITH_WORD_FORMAT(values->format, VALUES)
#undef VALUES
}

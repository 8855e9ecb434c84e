/*
 * Products for a few query rows, as in decoding: keys and values are read where they lie, once for all rows that share
 * them, so that the time is that of reading memory. Packing them first would read, write and read again. Rows are
 * evenly spaced in runs: reading their addresses from a table took up to a tenth of the time.
 *
 * Codes become floats in registers. Where a row has one scale, that meets its score and its weight instead.
 */
enum {
    DIRECT_ROWS = 4,                /* rows that one pass over keys or values serves */
    DIRECT_KEYS = VL / DIRECT_ROWS, /* keys whose products with those rows fill a vector */
    DIRECT_VALUE_KEYS = 16,         /* keys in one sum before it joins the others: short sums round less */
    DIRECT_CODE_KEYS = 32,          /* likewise of codes, whose products leave more of the time to sums */
    DIRECT_VALUE_VECS = 4,
};

/* Codes of four bits, two in a byte, come into vectors with the least work if the first of all bytes go into one and the
   second into another. Where a row has one scale, queries and sums are in that order, by blocks of two vectors; what is
   left at the end stays as it is. */
INLINE bool is_split(mfai_cpu_scaled_t kind, int32_t format) {
    return WORD_DEPTH == 1 && mfai_formats[format].bits == 4 && kind == MFAI_SCALED_ROWS;
}

#if WORD_DEPTH == 1
static void split_pairs(float *row, int64_t columns) {
    float block[2 * VL];
    for (int64_t at = 0; at + 2 * VL <= columns; at += 2 * VL) {
        memcpy(block, row + at, sizeof block);
        for (int i = 0; i < VL; ++i) {
            row[at + i] = block[2 * i];
            row[at + VL + i] = block[2 * i + 1];
        }
    }
}

static void join_pairs(float *row, int64_t columns) {
    float block[2 * VL];
    for (int64_t at = 0; at + 2 * VL <= columns; at += 2 * VL) {
        memcpy(block, row + at, sizeof block);
        for (int i = 0; i < VL; ++i) {
            row[at + 2 * i] = block[i];
            row[at + 2 * i + 1] = block[VL + i];
        }
    }
}

/* Two vectors in that order. */
INLINE vf load_split(const code_row_t *row, uint64_t at, vf *second) {
    return vf_load_nibble_pairs(row->codes + at / 2, row->bits, vf_set1(*row->zero), second);
}
#endif

/* Adds products with words of key k, from the word `at` on. */
INLINE void direct_multiply(const int rows, left_t query, vf key, int64_t at, const int k, vf sum[VL]) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        const vf q = vf_load(query.first + r * query.stride + at);
        sum[r * DIRECT_KEYS + k] = WORD_FMA(q, key, sum[r * DIRECT_KEYS + k]);
    }
}

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
            direct_multiply(rows, query, key, at, k, sum);
        }
    }
    vf_store(products, vf_sum_each(sum));
}

/* As load_words, of codes. */
INLINE vf code_words(const mfai_cpu_scaled_t kind, const int32_t format, const code_row_t *row, int64_t at,
                     int64_t columns) {
#if WORD_DEPTH == 1
    return load_real(kind, true, format, row, (uint64_t)at, columns - at < VL ? (int)(columns - at) : VL);
#else
    const int64_t first = 2 * at, second = first + VL;
    const vf low = load_real(kind, true, format, row, (uint64_t)first, columns < second ? (int)(columns - first) : VL);
    if (columns <= second)
        return JOIN_ROWS(low, vf_zero());
    const int n = columns - second < VL ? (int)(columns - second) : VL;
    return JOIN_ROWS(low, load_real(kind, true, format, row, (uint64_t)second, n));
#endif
}

/* As direct_products, of codes, the rows from j on, of which n are there. These are so short that all keys go side by
   side, and words of queries are loaded once. */
INLINE void direct_code_products(const int rows, const mfai_cpu_scaled_t kind, const int32_t format, left_t query,
                                 const char *const keys[DIRECT_KEYS], const char *const coming[DIRECT_KEYS],
                                 int64_t dim, const mfai_cpu_scales_t *scales, int64_t j, int n, float *products) {
    const int64_t whole = dim / (VL * WORD_DEPTH) * VL, bytes = mfai_format_bytes(format, dim);
    vf sum[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; ++i)
        sum[i] = vf_zero();
    code_row_t row[DIRECT_KEYS];
#pragma GCC unroll 4
    for (int k = 0; k < DIRECT_KEYS; ++k) {
        row[k] = code_row(kind, format, keys[k], scales, j + (k < n ? k : 0), 0);
        for (int64_t byte = 0; byte < bytes; byte += 64)
            __builtin_prefetch(coming[k] + byte);
        __builtin_prefetch(coming[k] + bytes - 1);
    }
    int64_t at = 0;
#if WORD_DEPTH == 1
    for (; is_split(kind, format) && at + 2 * VL <= dim; at += 2 * VL)
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k) {
            vf second;
            direct_multiply(rows, query, load_split(&row[k], (uint64_t)at, &second), at, k, sum);
            direct_multiply(rows, query, second, at + VL, k, sum);
        }
#endif
    for (; at < whole; at += VL)
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k)
            direct_multiply(rows, query, code_words(kind, format, &row[k], at, (at + VL) * WORD_DEPTH), at, k, sum);
    if (whole * WORD_DEPTH < dim)
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k)
            direct_multiply(rows, query, code_words(kind, format, &row[k], whole, dim), whole, k, sum);
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

INLINE void direct_scores_for(const int rows, const mfai_cpu_scaled_t kind, const int32_t format,
                              const mfai_spaced_rows_t *keys, const mfai_cpu_scales_t *scales, left_t query,
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
        if (kind == MFAI_UNSCALED)
            direct_products(rows, format, query, some, coming, dim, products);
        else
            direct_code_products(rows, kind, format, query, some, coming, dim, scales, j, n, products);
        for (int r = 0; r < rows; ++r) {
            float *to = scores.first + r * scores.stride + j;
            if (n == DIRECT_KEYS)
                memcpy(to, products + r * DIRECT_KEYS, DIRECT_KEYS * sizeof *to);
            else
                memcpy(to, products + r * DIRECT_KEYS, (size_t)n * sizeof *to);
        }
    }
}

/* Rows as a constant, so that sums stay in registers. */
INLINE void direct_scores_as(const mfai_cpu_scaled_t kind, const int32_t format, int rows,
                             const mfai_spaced_rows_t *keys, const mfai_cpu_scales_t *scales, left_t query,
                             mfa_span seen, sums_t scores) {
    switch (rows) {
    case 1:
        direct_scores_for(1, kind, format, keys, scales, query, seen, scores);
        return;
    case 2:
        direct_scores_for(2, kind, format, keys, scales, query, seen, scores);
        return;
    case 3:
        direct_scores_for(3, kind, format, keys, scales, query, seen, scores);
        return;
    default:
        direct_scores_for(DIRECT_ROWS, kind, format, keys, scales, query, seen, scores);
    }
}

/* Codes of eight bits, of four, and of eight that are centred. */
enum { OF_BYTES, OF_HALVES, OF_NUMBERS };

/* Each kind of codes has a function of its own, so that frames are small. */
typedef void (*direct_codes_fn)(int rows, const mfai_spaced_rows_t *codes, const mfai_cpu_scales_t *scales, left_t left,
                                mfa_span seen, sums_t to);
#define OF_CODES(name, product, kind, format)                                                               \
    __attribute__((noinline)) static void name(int rows, const mfai_spaced_rows_t *codes,                   \
                                               const mfai_cpu_scales_t *scales, left_t left, mfa_span seen, \
                                               sums_t to) {                                                 \
        product(kind, format, rows, codes, scales, left, seen, to);                                         \
    }
INLINE int width_of_codes(int32_t format, const mfai_cpu_scales_t *scales) {
    return mfai_formats[format].bits == 4 ? OF_HALVES : scales->centred ? OF_NUMBERS : OF_BYTES;
}
/* A table of them, by width and by kind. */
#define OF_ALL_CODES(name, product)                                                     \
    OF_CODES(name##_rows_of_bytes, product, MFAI_SCALED_ROWS, MFAI_FORMAT_UINT8)        \
    OF_CODES(name##_rows_of_numbers, product, MFAI_SCALED_ROWS, MFAI_FORMAT_INT8)       \
    OF_CODES(name##_groups_of_bytes, product, MFAI_SCALED_GROUPS, MFAI_FORMAT_UINT8)    \
    OF_CODES(name##_columns_of_bytes, product, MFAI_SCALED_COLUMNS, MFAI_FORMAT_UINT8)  \
    OF_CODES(name##_rows_of_halves, product, MFAI_SCALED_ROWS, MFAI_FORMAT_UINT4)       \
    OF_CODES(name##_groups_of_halves, product, MFAI_SCALED_GROUPS, MFAI_FORMAT_UINT4)   \
    OF_CODES(name##_columns_of_halves, product, MFAI_SCALED_COLUMNS, MFAI_FORMAT_UINT4) \
    static const direct_codes_fn name[3][MFAI_SCALED_COLUMNS + 1] = {                   \
        [OF_BYTES] = {[MFAI_SCALED_ROWS] = name##_rows_of_bytes,                        \
                      [MFAI_SCALED_GROUPS] = name##_groups_of_bytes,                    \
                      [MFAI_SCALED_COLUMNS] = name##_columns_of_bytes},                 \
        [OF_HALVES] = {[MFAI_SCALED_ROWS] = name##_rows_of_halves,                      \
                       [MFAI_SCALED_GROUPS] = name##_groups_of_halves,                  \
                       [MFAI_SCALED_COLUMNS] = name##_columns_of_halves},               \
        [OF_NUMBERS] = {[MFAI_SCALED_ROWS] = name##_rows_of_numbers,                    \
                        [MFAI_SCALED_GROUPS] = name##_groups_of_bytes,                  \
                        [MFAI_SCALED_COLUMNS] = name##_columns_of_bytes}};
OF_ALL_CODES(direct_code_scores, direct_scores_as)

/* Scores of the keys that are seen, but for the scale of a key that has one for all columns. */
static void direct_scores(const mfai_spaced_rows_t *keys, const mfai_cpu_scales_t *scales, left_t query, int rows,
                          mfa_span seen, sums_t scores) {
    for (int r = 0; r < rows; r += DIRECT_ROWS) {
        const left_t some = {query.first + r * query.stride, query.stride};
        const sums_t to = {scores.first + r * scores.stride, scores.stride};
#define SCORES(format) direct_scores_as(MFAI_UNSCALED, format, rows - r, keys, scales, some, seen, to)
        if (scales->kind == MFAI_UNSCALED)
            WITH_WORD_FORMAT(keys->format, SCORES)
        else
            direct_code_scores[width_of_codes(keys->format, scales)][scales->kind](rows - r, keys, scales, some, seen,
                                                                                   to);
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

/* As direct_add, of codes: the rows that are seen have these addresses. */
INLINE void direct_code_add(const int rows, const int vecs, const mfai_cpu_scaled_t kind, const int32_t format,
                            const char *const row[DIRECT_CODE_KEYS], const mfai_cpu_scales_t *scales, int64_t column,
                            int n, left_t weights, mfa_span seen, sums_t out) {
    vf sum[DIRECT_ROWS][DIRECT_VALUE_VECS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = vf_zero();
    for (int64_t w = seen.begin / WORD_DEPTH; w * WORD_DEPTH < seen.end; ++w) {
        vf value[DIRECT_VALUE_VECS];
#if WORD_DEPTH == 1
        const code_row_t codes = code_row(kind, format, row[w - seen.begin], scales, w, column);
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            if (vecs == 1 || !is_split(kind, format))
                value[v] = load_real(kind, false, format, &codes, (uint64_t)(v * VL), n);
            else if (v % 2 == 0)
                value[v] = load_split(&codes, (uint64_t)(v * VL), &value[v + 1]);
#else
        /* One that is not seen lends its place to its partner, times 0. */
        const int64_t first = 2 * w < seen.begin ? seen.begin : 2 * w, last = 2 * w + 1 < seen.end ? 2 * w + 1 : 2 * w;
        const code_row_t even = code_row(kind, format, row[first - seen.begin], scales, first, column);
        const code_row_t odd = code_row(kind, format, row[last - seen.begin], scales, last, column);
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            value[v] = PAIR_ROWS(load_real(kind, false, format, &even, (uint64_t)(v * VL), n),
                                 load_real(kind, false, format, &odd, (uint64_t)(v * VL), n));
#endif
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

INLINE void direct_code_values_for(const int rows, const mfai_cpu_scaled_t kind, const int32_t format,
                                   const mfai_spaced_rows_t *values, const mfai_cpu_scales_t *scales, left_t weights,
                                   mfa_span seen, sums_t out) {
    const mfai_rows_run_t *run = values->run;
    const int64_t columns = values->columns, bytes = mfai_format_bytes(format, columns);
    for (int64_t j = seen.begin; j < seen.end; j = j / DIRECT_CODE_KEYS * DIRECT_CODE_KEYS + DIRECT_CODE_KEYS) {
        const int64_t end = (j / DIRECT_CODE_KEYS + 1) * DIRECT_CODE_KEYS;
        const mfa_span some = mfa_span_of(j, end < seen.end ? end : seen.end);
        const char *row[DIRECT_CODE_KEYS];
        for (int64_t i = some.begin; i < some.end; ++i) {
            row[i - j] = direct_value(false, &run, values->step, i);
            for (int64_t byte = 0; byte < bytes; byte += 64)
                __builtin_prefetch(row[i - j] + run->ahead + byte);
        }
        int64_t column = 0;
        for (; column + DIRECT_VALUE_VECS * VL <= columns; column += DIRECT_VALUE_VECS * VL)
            direct_code_add(rows, DIRECT_VALUE_VECS, kind, format, row, scales, column, VL, weights, some, out);
        if (is_split(kind, format) && column + 2 * VL <= columns) {
            direct_code_add(rows, 2, kind, format, row, scales, column, VL, weights, some, out);
            column += 2 * VL;
        }
        for (; column + VL <= columns; column += VL)
            direct_code_add(rows, 1, kind, format, row, scales, column, VL, weights, some, out);
        if (column < columns)
            direct_code_add(rows, 1, kind, format, row, scales, column, (int)(columns - column), weights, some, out);
    }
}

/* Kind and format as constants, too. */
#define DIRECT_VALUES(rows)                                          \
    if (kind == MFAI_UNSCALED)                                       \
        direct_values_for(rows, format, values, weights, seen, out); \
    else                                                             \
        direct_code_values_for(rows, kind, format, values, scales, weights, seen, out);
INLINE void direct_values_as(const mfai_cpu_scaled_t kind, const int32_t format, int rows,
                             const mfai_spaced_rows_t *values, const mfai_cpu_scales_t *scales, left_t weights,
                             mfa_span seen, sums_t out) {
    switch (rows) {
    case 1:
        DIRECT_VALUES(1)
        return;
    case 2:
        DIRECT_VALUES(2)
        return;
    case 3:
        DIRECT_VALUES(3)
        return;
    default:
        DIRECT_VALUES(DIRECT_ROWS)
    }
}

#undef DIRECT_VALUES

OF_ALL_CODES(direct_code_values, direct_values_as)
#undef OF_ALL_CODES
#undef OF_CODES

/* out += weights . values for at most DIRECT_ROWS rows, over the keys that are seen. The scale of a value that has one
   for all columns is in its weights. */
static void direct_values(const mfai_spaced_rows_t *values, const mfai_cpu_scales_t *scales, left_t weights, int rows,
                          mfa_span seen, sums_t out) {
#define VALUES(format) direct_values_as(MFAI_UNSCALED, format, rows, values, scales, weights, seen, out)
    if (scales->kind == MFAI_UNSCALED)
        WITH_WORD_FORMAT(values->format, VALUES)
    else
        direct_code_values[width_of_codes(values->format, scales)][scales->kind](rows, values, scales, weights, seen,
                                                                                 out);
#undef VALUES
}

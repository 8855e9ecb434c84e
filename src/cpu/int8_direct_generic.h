/*
 * Products of codes for a few query rows, as in decoding: keys and values are read where they lie, once for four rows.
 */
enum {
    DIRECT_ROWS = 4,                /* rows that one pass over keys or values serves */
    DIRECT_KEYS = VL / DIRECT_ROWS, /* keys whose sums with those rows fill a vector */
    DIRECT_COLUMNS = 4 * VL,        /* of values, in one pass over the keys of a tile */
};

/* Which loads of codes are whole. Codes of four bits come into vectors with the least work if the first of all bytes go
   into one and the second into another, where there are two vectors of them: queries and sums are in that order. */
enum { DIRECT_PARTS, DIRECT_WHOLE, DIRECT_PAIRS };

static int direct_width(mfa_span columns, int32_t format) {
    const int64_t ends = columns.begin | columns.end;
    if (ends % DIRECT_COLUMNS != 0)
        return DIRECT_PARTS;
    return mfai_formats[format].bits == 4 && ends % (2 * DIRECT_COLUMNS) == 0 ? DIRECT_PAIRS : DIRECT_WHOLE;
}

/* Codes of queries, in that order. */
static void split_query(const int8_t *codes, mfa_span columns, int8_t *split) {
    for (int64_t c = columns.begin; c < columns.end; c += 2 * DIRECT_COLUMNS)
        for (int i = 0; i < DIRECT_COLUMNS; ++i) {
            split[c + i] = codes[c + 2 * i];
            split[c + DIRECT_COLUMNS + i] = codes[c + 2 * i + 1];
        }
}

/* Row j, which lies in *run or one behind it. */
INLINE const char *direct_row(const mfai_rows_run_t **run, int64_t step, int64_t j) {
    while (j >= (*run)->end)
        ++*run;
    return (*run)->first + j * step;
}

/* Rows from j on, of which `count` are there; the others are zeros. */
INLINE void direct_keys(const mfai_spaced_rows_t *keys, const mfai_rows_run_t **run, int64_t j, int count,
                        const char *key[DIRECT_KEYS]) {
    if (count == DIRECT_KEYS && j + DIRECT_KEYS <= (*run)->end)
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k)
            key[k] = (*run)->first + (j + k) * keys->step;
    else
        for (int k = 0; k < DIRECT_KEYS; ++k)
            key[k] = k < count ? direct_row(run, keys->step, j + k) : keys->zeros;
}

/* Of DIRECT_KEYS keys, `count` of them there: products[row * DIRECT_KEYS + key]. */
INLINE void store_products(int rows, int count, const float *products, float *to, int64_t stride) {
    for (int r = 0; r < rows; ++r, to += stride)
        if (count == DIRECT_KEYS)
            memcpy(to, products + r * DIRECT_KEYS, DIRECT_KEYS * sizeof *to);
        else
            memcpy(to, products + r * DIRECT_KEYS, (size_t)count * sizeof *to);
}

#if defined(HALF_GROUPS)
/* Of the two groups of columns of a vector of codes: sums of the second follow those of DIRECT_ROWS rows. */
INLINE void direct_score_halves_as(const int32_t format, int rows, const mfai_spaced_rows_t *keys, mfa_span columns,
                                   left_t query, const int32_t *const starts[2], mfa_span seen, sums_t sums) {
    uint32_t start[DIRECT_ROWS][VL] = {0};
    for (int r = 0; r < rows; ++r)
        for (int half = 0; half < 2; ++half)
            start[r][half * VL / 2] = starts[half] != NULL ? (uint32_t)starts[half][r] : 0;
    vf q[DIRECT_ROWS];
    for (int r = 0; r < DIRECT_ROWS; ++r)
        q[r] = vf_load_n(query.first + (r < rows ? r : 0) * query.stride + columns.begin / WORD_DEPTH,
                         (int)words_of(columns.end - columns.begin));
    const mfai_rows_run_t *run = keys->run;
    const uint32_t flip = key_flip(keys->format);
    for (int64_t j = seen.begin; j < seen.end; j += DIRECT_KEYS) {
        const int count = (int)(seen.end - j < DIRECT_KEYS ? seen.end - j : DIRECT_KEYS);
        const char *key[DIRECT_KEYS];
        direct_keys(keys, &run, j, count, key);
        vw sum[VL];
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k) {
            const int64_t at = columns.begin / WORD_DEPTH;
            const vf codes = vf_flip(load_code_words(key[k], format, at, columns.end), flip);
            __builtin_prefetch(key[k] + run->ahead + mfai_format_bytes(format, columns.begin));
#pragma GCC unroll 4
            for (int r = 0; r < DIRECT_ROWS; ++r)
                sum[r * DIRECT_KEYS + k] = vw_dot(codes, q[r], vw_load(start[r]));
        }
        vw upper;
        float products[2][VL];
        vf_store(products[0], vf_from_int(vw_sum_halves(sum, &upper)));
        vf_store(products[1], vf_from_int(upper));
        for (int half = 0; half < 2; ++half)
            store_products(rows, count, products[half], sums.first + half * DIRECT_ROWS * sums.stride + j, sums.stride);
    }
}

static void direct_score_halves(int rows, const mfai_spaced_rows_t *keys, mfa_span columns, left_t query,
                                const int32_t *const starts[2], mfa_span seen, sums_t sums) {
    if (mfai_formats[keys->format].bits == 4)
        direct_score_halves_as(MFAI_FORMAT_UINT4, rows, keys, columns, query, starts, seen, sums);
    else
        direct_score_halves_as(MFAI_FORMAT_UINT8, rows, keys, columns, query, starts, seen, sums);
}
#endif

/* Sums of codes of the queries' columns and those of the keys that are seen, as floats; `starts` is added to each of a
   row. */
INLINE void direct_scores_as(const int rows, const int width, const int32_t format, const mfai_spaced_rows_t *keys,
                             mfa_span columns, left_t query, const int32_t *starts, mfa_span seen, sums_t sums) {
    uint32_t start[DIRECT_ROWS][VL] = {0};
    for (int r = 0; r < rows; ++r)
        start[r][0] = (uint32_t)starts[r];
    const mfai_rows_run_t *run = keys->run;
    const int64_t words = words_of(columns.end);
    const bool whole = width != DIRECT_PARTS;
    const uint32_t flip = key_flip(keys->format);
    for (int64_t j = seen.begin; j < seen.end; j += DIRECT_KEYS) {
        const int count = (int)(seen.end - j < DIRECT_KEYS ? seen.end - j : DIRECT_KEYS);
        const char *key[DIRECT_KEYS];
        direct_keys(keys, &run, j, count, key);
        vw sum[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i)
            sum[i] = i / DIRECT_KEYS < rows ? vw_load(start[i / DIRECT_KEYS]) : vw_zero();
        for (int64_t at = columns.begin / WORD_DEPTH; at < words && width == DIRECT_PAIRS; at += 2 * VL)
#pragma GCC unroll 4
            for (int k = 0; k < DIRECT_KEYS; ++k) {
                const char *pairs = key[k] + at * WORD_DEPTH / 2;
                vf odd;
                const vf even = split_nibbles(vf_flip(vf_load(pairs), 0x11 * flip), &odd);
                __builtin_prefetch(pairs + run->ahead);
#pragma GCC unroll 4
                for (int r = 0; r < rows; ++r) {
                    const lane32 *q = query.first + r * query.stride + at;
                    vw *to = &sum[r * DIRECT_KEYS + k];
                    *to = vw_dot(odd, vf_load(q + VL), vw_dot(even, vf_load(q), *to));
                }
            }
        for (int64_t at = columns.begin / WORD_DEPTH; at < words && width != DIRECT_PAIRS; at += VL) {
            /* Zeros meet what the next group has, and what becomes of bytes that are not there. */
            vf q[DIRECT_ROWS];
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r)
                q[r] =
                    vf_load_n(query.first + r * query.stride + at, whole || words - at > VL ? VL : (int)(words - at));
#pragma GCC unroll 4
            for (int k = 0; k < DIRECT_KEYS; ++k) {
                const vf codes = vf_flip(load_code_words(key[k], format, at, whole ? INT64_MAX : columns.end), flip);
                __builtin_prefetch(key[k] + run->ahead + mfai_format_bytes(format, at * WORD_DEPTH));
#pragma GCC unroll 4
                for (int r = 0; r < rows; ++r)
                    sum[r * DIRECT_KEYS + k] = vw_dot(codes, q[r], sum[r * DIRECT_KEYS + k]);
            }
        }
        float products[VL];
        vf_store(products, vf_from_int(vw_sum_each(sum)));
        store_products(rows, count, products, sums.first + j, sums.stride);
    }
}

/* Four keys' rows, from 4 * word on; those that are not seen are zeros. */
INLINE const mfai_rows_run_t *direct_word(const mfai_spaced_rows_t *values, const mfai_rows_run_t *run, int64_t word,
                                          mfa_span seen, const char *rows[WORD_DEPTH]) {
    const int64_t first = word * WORD_DEPTH;
    if (first >= seen.begin && first + WORD_DEPTH <= seen.end && first + WORD_DEPTH <= run->end) {
        for (int i = 0; i < WORD_DEPTH; ++i)
            rows[i] = run->first + (first + i) * values->step;
        return run;
    }
    for (int i = 0; i < WORD_DEPTH; ++i)
        rows[i] =
            first + i >= seen.begin && first + i < seen.end ? direct_row(&run, values->step, first + i) : values->zeros;
    return run;
}

/* Where to prefetch next. Values are read in passes over their columns, but memory is fastest in the order of its
   lines. */
typedef struct {
    const char *row;
    int64_t at, bytes, step; /* in the row, of a row, and from row to row */
} coming_t;

INLINE void prefetch_coming(coming_t *coming, int64_t bytes) {
    for (; bytes > 0; bytes -= 64) {
        __builtin_prefetch(coming->row + coming->at);
        coming->at += 64;
        if (coming->at < coming->bytes)
            continue;
        __builtin_prefetch(coming->row + coming->bytes - 1); /* in a line more, if it begins inside one */
        bytes += coming->at - coming->bytes;
        coming->at = 0;
        coming->row += coming->step;
    }
}

/* Sums of weights times codes for the words of keys that begin with the first of `words`, some of whose keys are seen:
   of a vector of codes from `column` on, or of those at even or odd places of two. `coming` is NULL if the next rows do
   not follow each other as these do. */
INLINE void direct_sums(const int rows, const int width, const bool odd, const int32_t format,
                        const lane32 *upper_weights, const mfai_spaced_rows_t *values, const mfai_rows_run_t *run,
                        coming_t *coming, left_t weights, mfa_span words, mfa_span seen, int64_t column, int64_t end,
                        vw sum[DIRECT_ROWS][4]) {
    const uint32_t flip = value_flip(values->format);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v)
            sum[r][v] = vw_zero();
    for (int64_t w = words.begin; w < words.end; ++w) {
        const char *keys[WORD_DEPTH];
        run = direct_word(values, run, w, seen, keys);
        vf row[WORD_DEPTH], word[4];
#pragma GCC unroll 4
        for (int i = 0; i < WORD_DEPTH; ++i) {
            if (width == DIRECT_PAIRS) {
                vf second;
                const vf first = split_nibbles(vf_load(keys[i] + column / 2), &second);
                row[i] = odd ? second : first;
            } else
                row[i] = load_code_words(keys[i], format, column / WORD_DEPTH, width == DIRECT_WHOLE ? INT64_MAX : end);
            if (coming == NULL)
                __builtin_prefetch(keys[i] + run->ahead + mfai_format_bytes(format, column));
        }
        if (coming != NULL)
            prefetch_coming(coming, WORD_DEPTH * mfai_format_bytes(format, DIRECT_COLUMNS));
        interleave_rows(row, word);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v)
            word[v] = vf_flip(word[v], flip);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const int64_t of_row = r * weights.stride + w - words.begin;
#if defined(HALF_GROUPS)
            const vf weight = upper_weights != NULL ? vf_halves(weights.first[of_row], upper_weights[of_row])
                                                    : vf_set1(weights.first[of_row]);
#else
            (void)upper_weights;
            const vf weight = vf_set1(weights.first[of_row]);
#endif
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v)
                sum[r][v] = vw_dot(weight, word[v], sum[r][v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
        order_columns(sum[r]);
}

/* out = out * correction + what value_tile adds to it, for rows of weights. */
INLINE void direct_values_as(const int rows, const int width, const int32_t format, const mfai_spaced_rows_t *values,
                             mfa_span columns, left_t weights, mfa_span words, mfa_span seen,
                             const value_terms_t *terms, sums_t out) {
    const mfai_rows_run_t *run = values->run;
    const int64_t first = words.begin * WORD_DEPTH > seen.begin ? words.begin * WORD_DEPTH : seen.begin;
    const int64_t bytes = mfai_format_bytes(format, columns.end - columns.begin), end = columns.end;
    const char *row = direct_row(&run, values->step, first) + mfai_format_bytes(format, columns.begin);
    coming_t lines = {row + run->ahead, 0, bytes, values->step};
    coming_t *coming = words.end * WORD_DEPTH <= run->end ? &lines : NULL;
    vw sum[DIRECT_ROWS][4];
    if (width == DIRECT_PAIRS) {
        for (int64_t c = columns.begin; c < end; c += 2 * DIRECT_COLUMNS) {
            vw odd[DIRECT_ROWS][4];
            direct_sums(rows, width, false, format, NULL, values, run, coming, weights, words, seen, c, end, sum);
            direct_sums(rows, width, true, format, NULL, values, run, coming, weights, words, seen, c, end, odd);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
                for (int v = 0; v < 4; ++v) {
                    float *to = out.first + r * out.stride + c + 2 * v * VL;
                    vw second;
                    const vw start = zip_words(sum[r][v], odd[r][v], &second);
                    add_value_sums(start, terms, r, c + 2 * v * VL, to);
                    add_value_sums(second, terms, r, c + (2 * v + 1) * VL, to + VL);
                }
        }
        return;
    }
    for (int64_t c = columns.begin; c < end; c += DIRECT_COLUMNS) {
        direct_sums(rows, width, false, format, NULL, values, run, coming, weights, words, seen, c, end, sum);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v)
                if (c + v * VL < end)
                    add_value_sums(sum[r][v], terms, r, c + v * VL, out.first + r * out.stride + c + v * VL);
    }
}

#if defined(HALF_GROUPS)
/* As direct_values_as, of the two groups of columns of a vector of codes. */
INLINE void direct_value_halves_as(const int rows, const int width, const int32_t format,
                                   const mfai_spaced_rows_t *values, mfa_span columns, left_t weights,
                                   const lane32 *upper_weights, mfa_span words, mfa_span seen,
                                   const value_terms_t terms[2], sums_t out) {
    const mfai_rows_run_t *run = values->run;
    const int64_t first = words.begin * WORD_DEPTH > seen.begin ? words.begin * WORD_DEPTH : seen.begin;
    direct_row(&run, values->step, first);
    vw sum[DIRECT_ROWS][4];
    direct_sums(rows, width, false, format, upper_weights, values, run, NULL, weights, words, seen, columns.begin,
                columns.end, sum);
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
            const int64_t c = columns.begin + v * VL;
            if (c < columns.end)
                add_value_sums(sum[r][v], &terms[v / 2], r, c, out.first + r * out.stride + c);
        }
}
#endif

/* Rows as a constant, so that sums stay in registers. */
#define WITH_ROWS(rows, function, ...)      \
    switch (rows) {                         \
    case 1:                                 \
        function(1, __VA_ARGS__);           \
        break;                              \
    case 2:                                 \
        function(2, __VA_ARGS__);           \
        break;                              \
    case 3:                                 \
        function(3, __VA_ARGS__);           \
        break;                              \
    default:                                \
        function(DIRECT_ROWS, __VA_ARGS__); \
    }

/* Codes as wide as these: their sign is in what is turned over. */
#define WITH_WIDTH(columns, format, call)          \
    switch (direct_width(columns, format)) {       \
    case DIRECT_PAIRS:                             \
        call(DIRECT_PAIRS, MFAI_FORMAT_UINT4);     \
        break;                                     \
    case DIRECT_WHOLE:                             \
        if (mfai_formats[format].bits == 4) {      \
            call(DIRECT_WHOLE, MFAI_FORMAT_UINT4); \
        } else {                                   \
            call(DIRECT_WHOLE, MFAI_FORMAT_UINT8); \
        }                                          \
        break;                                     \
    default:                                       \
        if (mfai_formats[format].bits == 4) {      \
            call(DIRECT_PARTS, MFAI_FORMAT_UINT4); \
        } else {                                   \
            call(DIRECT_PARTS, MFAI_FORMAT_UINT8); \
        }                                          \
    }

/* At most DIRECT_ROWS rows. */
static void direct_scores(int rows, const mfai_spaced_rows_t *keys, mfa_span columns, left_t query,
                          const int32_t *starts, mfa_span seen, sums_t sums) {
#define SCORES(width, format) WITH_ROWS(rows, direct_scores_as, width, format, keys, columns, query, starts, seen, sums)
    WITH_WIDTH(columns, keys->format, SCORES)
#undef SCORES
}

static void direct_values(int rows, const mfai_spaced_rows_t *values, mfa_span columns, left_t weights, mfa_span words,
                          mfa_span seen, const value_terms_t *terms, sums_t out) {
#define VALUES(width, format) \
    WITH_ROWS(rows, direct_values_as, width, format, values, columns, weights, words, seen, terms, out)
    WITH_WIDTH(columns, values->format, VALUES)
#undef VALUES
}

#if defined(HALF_GROUPS)
static void direct_value_halves(int rows, const mfai_spaced_rows_t *values, mfa_span columns, left_t weights,
                                const lane32 *upper_weights, mfa_span words, mfa_span seen,
                                const value_terms_t terms[2], sums_t out) {
    if (mfai_formats[values->format].bits == 4) {
        WITH_ROWS(rows, direct_value_halves_as, DIRECT_PARTS, MFAI_FORMAT_UINT4, values, columns, weights,
                  upper_weights, words, seen, terms, out)
    } else {
        WITH_ROWS(rows, direct_value_halves_as, DIRECT_PARTS, MFAI_FORMAT_UINT8, values, columns, weights,
                  upper_weights, words, seen, terms, out)
    }
}
#endif

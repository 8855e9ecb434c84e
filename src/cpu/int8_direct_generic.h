/*
 * Products of codes for a few query rows, as in decoding: keys and values are read where they lie, once for four rows.
 */
enum {
    DIRECT_ROWS = 4,                /* rows that one pass over keys or values serves */
    DIRECT_KEYS = VL / DIRECT_ROWS, /* keys whose sums with those rows fill a vector */
    DIRECT_COLUMNS = 4 * VL,        /* of values, in one pass over the keys of a tile */
};

/* Row j, which lies in *run or one behind it. */
INLINE const char *direct_row(const mfai_rows_run_t **run, int64_t step, int64_t j) {
    while (j >= (*run)->end)
        ++*run;
    return (*run)->first + j * step;
}

/* Sums of codes of the queries' columns and those of the keys that are seen, as floats; `starts` is added to each of a
   row. */
INLINE void direct_scores_as(const int rows, const bool whole, const int32_t format, const mfai_spaced_rows_t *keys,
                             mfa_span columns, left_t query, const int32_t *starts, mfa_span seen, sums_t sums) {
    uint32_t start[DIRECT_ROWS][VL] = {0};
    for (int r = 0; r < rows; ++r)
        start[r][0] = (uint32_t)starts[r];
    const mfai_rows_run_t *run = keys->run;
    const int64_t words = words_of(columns.end);
    const uint32_t flip = key_flip(keys->format);
    for (int64_t j = seen.begin; j < seen.end; j += DIRECT_KEYS) {
        const int count = (int)(seen.end - j < DIRECT_KEYS ? seen.end - j : DIRECT_KEYS);
        const char *key[DIRECT_KEYS];
        for (int k = 0; k < DIRECT_KEYS; ++k)
            key[k] = k < count ? direct_row(&run, keys->step, j + k) : keys->zeros;
        vw sum[VL];
#pragma GCC unroll 16
        for (int i = 0; i < VL; ++i)
            sum[i] = i / DIRECT_KEYS < rows ? vw_load(start[i / DIRECT_KEYS]) : vw_zero();
        for (int64_t at = columns.begin / WORD_DEPTH; at < words; at += VL) {
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
        for (int r = 0; r < rows; ++r)
            memcpy(sums.first + r * sums.stride + j, products + r * DIRECT_KEYS, (size_t)count * sizeof *products);
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

/* The columns of a vector of words that begins at `column`: out = out * correction + what value_tile adds to it, for
   rows of weights that begin with the first of `words`, some of whose keys are seen. */
INLINE void direct_columns(const int rows, const bool whole, const int32_t format, const mfai_spaced_rows_t *values,
                           const mfai_rows_run_t *run, left_t weights, mfa_span words, mfa_span seen, int64_t column,
                           int64_t end, const value_terms_t *terms, sums_t out) {
    const uint32_t flip = value_flip(values->format);
    vw sum[DIRECT_ROWS][4];
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
            row[i] = load_code_words(keys[i], format, column / WORD_DEPTH, whole ? INT64_MAX : end);
            __builtin_prefetch(keys[i] + run->ahead + mfai_format_bytes(format, column));
        }
        interleave_rows(row, word);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v)
            word[v] = vf_flip(word[v], flip);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const vf weight = vf_set1(weights.first[r * weights.stride + w - words.begin]);
#pragma GCC unroll 4
            for (int v = 0; v < 4; ++v)
                sum[r][v] = vw_dot(weight, word[v], sum[r][v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
        order_columns(sum[r]);
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v)
            if (column + v * VL < end)
                add_value_sums(sum[r][v], terms, r, column + v * VL, out.first + r * out.stride + column + v * VL);
    }
}

INLINE void direct_values_as(const int rows, const bool whole, const int32_t format, const mfai_spaced_rows_t *values,
                             mfa_span columns, left_t weights, mfa_span words, mfa_span seen,
                             const value_terms_t *terms, sums_t out) {
    const mfai_rows_run_t *run = values->run;
    const int64_t first = words.begin * WORD_DEPTH > seen.begin ? words.begin * WORD_DEPTH : seen.begin;
    direct_row(&run, values->step, first);
    for (int64_t c = columns.begin; c < columns.end; c += DIRECT_COLUMNS)
        direct_columns(rows, whole, format, values, run, weights, words, seen, c, columns.end, terms, out);
}

/* Rows as a constant, so that sums stay in registers, and whether all vectors of codes are whole. */
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

#define WITH_WHOLE(columns, rows, function, ...)                                        \
    if ((columns).begin % DIRECT_COLUMNS == 0 && (columns).end % DIRECT_COLUMNS == 0) { \
        WITH_ROWS(rows, function, true, __VA_ARGS__)                                    \
    } else {                                                                            \
        WITH_ROWS(rows, function, false, __VA_ARGS__)                                   \
    }

/* A format as wide as the codes': their sign is in what is turned over. */
#define WITH_CODE_BITS(format, call)      \
    if (mfai_formats[format].bits == 4) { \
        call(MFAI_FORMAT_UINT4)           \
    } else {                              \
        call(MFAI_FORMAT_UINT8)           \
    }

/* At most DIRECT_ROWS rows. */
static void direct_scores(int rows, const mfai_spaced_rows_t *keys, mfa_span columns, left_t query,
                          const int32_t *starts, mfa_span seen, sums_t sums) {
#define SCORES(format) WITH_WHOLE(columns, rows, direct_scores_as, format, keys, columns, query, starts, seen, sums)
    WITH_CODE_BITS(keys->format, SCORES)
#undef SCORES
}

static void direct_values(int rows, const mfai_spaced_rows_t *values, mfa_span columns, left_t weights, mfa_span words,
                          mfa_span seen, const value_terms_t *terms, sums_t out) {
#define VALUES(format) \
    WITH_WHOLE(columns, rows, direct_values_as, format, values, columns, weights, words, seen, terms, out)
    WITH_CODE_BITS(values->format, VALUES)
#undef VALUES
}

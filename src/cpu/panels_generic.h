/* Queries, keys and values in the form that the register tiles multiply. */

/* Calls `call` with the format as a constant; only bfloat16 is multiplied in pairs. */
#if WORD_DEPTH == 1
#define WITH_WORD_FORMAT(format, call) WITH_FORMAT(format, call)
#else
#define WITH_WORD_FORMAT(format, call) \
    {                                  \
        (void)(format);                \
        call(MFAI_FORMAT_BF16);        \
    }
#endif

/* Words `at` .. at + VL - 1 of a contiguous row of `columns` elements, zero beyond its end. */
INLINE vf load_words(const char *row, const int32_t format, int64_t at, int64_t columns) {
#if WORD_DEPTH == 1
    return load_converted(row, format, at, columns - at < VL ? (int)(columns - at) : VL);
#else
    (void)format;
    const int64_t halves = columns - 2 * at;
    return halves >= 2 * VL ? vf_load(row + 4 * at) : vf_load_halves_n(row + 4 * at, (int)halves);
#endif
}

/* `n` columns of the values of one word of keys; `even` and `odd` are its rows where a word is two. */
INLINE vf load_value_words(const char *even, const char *odd, const int32_t format, int64_t column, int n) {
#if WORD_DEPTH == 1
    (void)odd;
    return load_converted(even, format, column, n);
#else
    (void)format;
    return vf_pair_halves((const uint16_t *)even + column, (const uint16_t *)odd + column, n);
#endif
}

INLINE int64_t words_of(int64_t elements) { return (elements + WORD_DEPTH - 1) / WORD_DEPTH; }

/* Rows of queries, or of what follows them, each padded with zeros to `words`, whole vectors, from packed[0] on; `copy`
   has room for one row. */
static void pack_queries(const mfai_cpu_forward_job_t *job, const mfai_view_t *queries, const mfai_walk_t *walk,
                         mfa_span rows, char *copy, int64_t words, lane32 *packed) {
    const int64_t columns = queries->shape[3];
    const int64_t ahead = mfai_rows_ahead(queries) * mfai_view_step(queries);
    for (int64_t r = rows.begin; r < rows.end; ++r) {
        const char *source = mfai_row_find(queries, walk->batch, row_head(walk, r), row_position(walk, r), copy);
        lane32 *row = packed + (r - rows.begin) * job->shape.query_words;
#define LOAD(format)                                                                        \
    for (int64_t k = 0; k < words; k += VL) {                                               \
        vf_store(row + k, load_words(source, format, k, columns));                          \
        __builtin_prefetch(source + ahead + k * WORD_DEPTH * mfai_format_bytes(format, 1)); \
    }
        WITH_WORD_FORMAT(queries->format, LOAD)
#undef LOAD
        if (job->negate_query) {
            const uint32_t signs = WORD_DEPTH == 1 ? 0x80000000u : 0x80008000u;
            for (int64_t i = 0; i < words; ++i)
                row[i] = mfai_bits_to_f32(mfai_f32_to_bits(row[i]) ^ signs);
        }
    }
}

_Static_assert(MFAI_ROWS_PADDING % VL == 0, "whole vectors of rows in a table");

INLINE void pack_keys_as(const int32_t format, const mfai_rows_t *keys, int64_t words, int64_t first, lane32 *packed) {
    const int64_t used = words_of(keys->columns);
    for (int64_t j = 0; j < keys->count; j += VL) {
        const int64_t panel = j / PANEL, width = panel_is_full(panel, keys->count) ? PANEL : VL;
        lane32 *columns = packed + panel * PANEL * words + first * width + j % PANEL;
        const char *sources[VL], *coming[VL];
        for (int i = 0; i < VL; ++i) {
            sources[i] = keys->row[j + i];
            coming[i] = keys->row[j + i + keys->ahead];
        }
        int64_t k = 0;
        for (; (k + VL) * WORD_DEPTH <= keys->columns; k += VL) {
            vf rows[VL];
#pragma GCC unroll 16
            for (int i = 0; i < VL; ++i) {
                rows[i] = load_words(sources[i], format, k, (k + VL) * WORD_DEPTH);
                __builtin_prefetch(coming[i] + k * WORD_DEPTH * mfai_format_bytes(format, 1));
            }
            vf_transpose(rows);
#pragma GCC unroll 16
            for (int i = 0; i < VL; ++i)
                vf_store(columns + (k + i) * width, rows[i]);
        }
        if (k < used) {
            vf rows[VL];
            for (int i = 0; i < VL; ++i)
                rows[i] = load_words(sources[i], format, k, keys->columns);
            vf_transpose(rows);
            for (int i = 0; k + i < used; ++i)
                vf_store(columns + (k + i) * width, rows[i]);
        }
    }
}

/* Keys as columns: panel after panel, each `words` deep, of which theirs are those from `first` on. */
static void pack_keys(const mfai_rows_t *keys, int64_t words, int64_t first, lane32 *packed){
#define PACK(format) pack_keys_as(format, keys, words, first, packed)
    WITH_WORD_FORMAT(keys -> format, PACK)
#undef PACK
}

/* As load_value_words; zero in place of what is not finite if only the `finite` is wanted. */
INLINE vf load_panel_words(const char *even, const char *odd, const int32_t format, int64_t column, int n,
                           const bool finite) {
    const vf x = load_value_words(even, odd, format, column, n);
    return finite ? FINITE_WORDS(x) : x;
}

INLINE void pack_values_as(const int32_t format, const mfai_rows_t *values, const bool finite, lane32 *packed) {
    const int64_t depth = words_of(values->count), columns = values->columns;
    for (int64_t k = 0; k < depth; ++k) {
        const char *const *first = values->row + k * WORD_DEPTH, *const *last = first + WORD_DEPTH - 1;
        const char *even = *first, *odd = *last;
        const char *next_even = first[values->ahead], *next_odd = last[values->ahead];
        int64_t column = 0;
        for (; column + PANEL <= columns; column += PANEL) {
            lane32 *to = packed + column * depth + k * PANEL;
            vf_store(to, load_panel_words(even, odd, format, column, VL, finite));
            vf_store(to + VL, load_panel_words(even, odd, format, column + VL, VL, finite));
            for (int64_t byte = 0; byte < PANEL * mfai_format_bytes(format, 1); byte += 64) {
                __builtin_prefetch(next_even + column * mfai_format_bytes(format, 1) + byte);
                if (WORD_DEPTH == 2)
                    __builtin_prefetch(next_odd + column * mfai_format_bytes(format, 1) + byte);
            }
        }
        const int64_t left = columns - column;
        if (left > VL) {
            lane32 *to = packed + column * depth + k * PANEL;
            vf_store(to, load_panel_words(even, odd, format, column, VL, finite));
            vf_store(to + VL, load_panel_words(even, odd, format, column + VL, (int)left - VL, finite));
        } else if (left > 0) {
            vf_store(packed + column * depth + k * VL, load_panel_words(even, odd, format, column, (int)left, finite));
        }
    }
}

/* Values: panels of columns, each as deep as the keys are words. */
static void pack_values(const mfai_rows_t *values, lane32 *packed) {
#define PACK(format) pack_values_as(format, values, false, packed)
    WITH_WORD_FORMAT(values->format, PACK)
#undef PACK
}

/* Likewise, with zeros for what is not finite: for products in which 0 times anything has to be 0. */
static void pack_finite_values(const mfai_rows_t *values, lane32 *packed) {
#define PACK(format) pack_values_as(format, values, true, packed)
    WITH_WORD_FORMAT(values->format, PACK)
#undef PACK
}

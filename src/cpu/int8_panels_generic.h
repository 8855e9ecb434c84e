/* Queries, keys and values as words of four codes. */

INLINE int64_t words_of(int64_t elements) { return (elements + WORD_DEPTH - 1) / WORD_DEPTH; }

/* The bits of codes that are turned over, in each byte of a word, so that keys are unsigned and values signed. */
INLINE uint32_t key_flip(int32_t format) { return 0x01010101u * (uint32_t)mfai_cpu_int8_key_offset(format); }
INLINE uint32_t value_flip(int32_t format) {
    const int32_t offset = mfai_cpu_int8_value_offset(format);
    return 0x01010101u * (uint32_t)(offset < 0 ? -offset : offset);
}

/* Words `at` .. at + VL - 1 of a row of `columns` codes, a byte each. */
INLINE vf load_code_words(const char *row, const int32_t format, int64_t at, int64_t columns) {
    if (format == MFAI_FORMAT_INT4 || format == MFAI_FORMAT_UINT4)
        return load_nibbles_n(row + at * WORD_DEPTH / 2, columns - at * WORD_DEPTH);
    return load_bytes_n(row + at * WORD_DEPTH, columns - at * WORD_DEPTH);
}

#define WITH_CODE_FORMAT(format, call) \
    switch (format) {                  \
    case MFAI_FORMAT_INT8:             \
        call(MFAI_FORMAT_INT8);        \
        break;                         \
    case MFAI_FORMAT_UINT8:            \
        call(MFAI_FORMAT_UINT8);       \
        break;                         \
    case MFAI_FORMAT_INT4:             \
        call(MFAI_FORMAT_INT4);        \
        break;                         \
    default:                           \
        call(MFAI_FORMAT_UINT4);       \
    }

/* As pack_keys_as of floats: panel after panel, `words` deep. */
INLINE void pack_keys_as(const int32_t format, const mfai_rows_t *keys, int64_t words, lane32 *packed) {
    const int64_t used = words_of(keys->columns);
    for (int64_t j = 0; j < keys->count; j += VL) {
        const int64_t panel = j / PANEL, width = panel_is_full(panel, keys->count) ? PANEL : VL;
        lane32 *columns = packed + panel * PANEL * words + j % PANEL;
        for (int64_t k = 0; k < used; k += VL) {
            vf rows[VL];
#pragma GCC unroll 16
            for (int i = 0; i < VL; ++i) {
                rows[i] = vf_flip(load_code_words(keys->row[j + i], format, k, keys->columns), key_flip(format));
                __builtin_prefetch(keys->row[j + i + keys->ahead] + mfai_format_bytes(format, k * WORD_DEPTH));
            }
            vf_transpose(rows);
#pragma GCC unroll 16
            for (int i = 0; i < VL; ++i)
                if (k + i < used)
                    vf_store(columns + (k + i) * width, rows[i]);
        }
    }
}

static void pack_keys(const mfai_rows_t *keys, int64_t words, lane32 *packed){
#define PACK(format) pack_keys_as(format, keys, words, packed)
    WITH_CODE_FORMAT(keys -> format, PACK)
#undef PACK
}

/* Four rows of codes, each in a byte of its own: where they lie, or in `bytes`. */
INLINE void find_code_bytes(const int32_t format, const char *const *rows, int64_t columns, char *bytes,
                            const char *found[WORD_DEPTH]) {
    const int64_t words = mfai_round_up(words_of(columns), VL);
    for (int r = 0; r < WORD_DEPTH; ++r) {
        found[r] = rows[r];
        if (format != MFAI_FORMAT_INT4 && format != MFAI_FORMAT_UINT4)
            continue;
        char *to = bytes + r * words * WORD_DEPTH;
        for (int64_t k = 0; k * WORD_DEPTH < columns; k += VL)
            vf_store(to + k * WORD_DEPTH, load_code_words(rows[r], format, k, columns));
        found[r] = to;
    }
}

/* A word holds the codes of four keys in one column; panels are as deep as the keys are words. */
INLINE void pack_values_as(const int32_t format, const mfai_rows_t *values, char *bytes, lane32 *packed) {
    const int64_t depth = words_of(values->count), columns = values->columns;
    for (int64_t k = 0; k < depth; ++k) {
        const char *rows[WORD_DEPTH];
        find_code_bytes(format, values->row + k * WORD_DEPTH, columns, bytes, rows);
        for (int r = 0; r < WORD_DEPTH; ++r)
            for (int64_t byte = 0; byte < mfai_format_bytes(format, columns); byte += 64)
                __builtin_prefetch(values->row[k * WORD_DEPTH + r + values->ahead] + byte);
        for (int64_t c = 0; c < columns; c += VL) {
            const int64_t panel = c / PANEL, width = panel_is_full(panel, columns) ? PANEL : VL;
            const char *some[WORD_DEPTH] = {rows[0] + c, rows[1] + c, rows[2] + c, rows[3] + c};
            vf_store(packed + panel * PANEL * depth + k * width + c % PANEL,
                     vf_flip(interleave_bytes(some, (int)(columns - c < VL ? columns - c : VL)), value_flip(format)));
        }
    }
}

static void pack_values(const mfai_rows_t *values, char *bytes, lane32 *packed) {
#define PACK(format) pack_values_as(format, values, bytes, packed)
    WITH_CODE_FORMAT(values->format, PACK)
#undef PACK
}

/* One query, its columns times `factors`, rounded to codes, with zeros behind them, at most `bytes` of them in all.
   Returns the scale: NaN if something is not finite. `row` has room for its floats. */
static float round_query(const float *factors, int64_t columns, int64_t bytes, float *row, int8_t *codes) {
    vf most = vf_zero(), poison = vf_zero();
    for (int64_t c = 0; c < columns; c += VL) {
        const vf x = vf_mul(vf_load(row + c), vf_load(factors + c));
        most = vf_max(most, vf_abs(x));
        poison = vf_fma(x, vf_zero(), poison);
        vf_store(row + c, x);
    }
    /* Far below what floats of queries hold: the inverse stays finite. */
    const float largest = fmaxf(vf_hmax(most), 0x1p-100f);
    const vf inverse = vf_set1(127 / largest);
    memset(codes, 0, (size_t)bytes);
    for (int64_t c = 0; c < columns; c += VL)
        store_signed_bytes(codes + c, vf_mul(vf_load(row + c), inverse));
    return largest / 127 + vf_hsum(poison);
}

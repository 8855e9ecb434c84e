/*
 * Products for a few query rows, as in decoding: keys and values are read where they lie, once for all rows that share them, so
 * that the time is that of reading memory. Packing them first would read, write and read again.
 */
enum {
    DIRECT_ROWS = 4,                /* rows that one pass over keys or values serves */
    DIRECT_KEYS = VL / DIRECT_ROWS, /* keys whose products with those rows fill a vector */
    DIRECT_VALUE_KEYS = 16,         /* keys in one sum before it joins the others: short sums round less */
    DIRECT_VALUE_VECS = 4,
};

/* DIRECT_KEYS keys times `rows` queries: products[row * DIRECT_KEYS + key]. */
INLINE void direct_products(const int rows, const word *query, int64_t query_stride,
                            const char *const keys[DIRECT_KEYS], int32_t format, int64_t dim, int64_t ahead,
                            float *products) {
    const int64_t words = words_of(dim);
    vf sum[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; ++i)
        sum[i] = vf_zero();
#pragma GCC unroll 4
    for (int k = 0; k < DIRECT_KEYS; ++k) /* one key after the other, for the hardware's prefetchers */
        for (int64_t at = 0; at < words; at += VL) {
            const vf key = load_words(keys[k], format, at, dim);
            __builtin_prefetch(keys[k] + ahead + at * (int64_t)mfai_format_bytes(format, 1) * WORD_DEPTH);
#pragma GCC unroll 4
            for (int r = 0; r < rows; ++r) {
                const vf q = vf_load(query + r * query_stride + at);
                sum[r * DIRECT_KEYS + k] = WORD_FMA(sum[r * DIRECT_KEYS + k], q, key);
            }
        }
    vf_store(products, vf_sum_each(sum));
}

INLINE void direct_scores_for(const int rows, const int32_t format, const char *first_key, int64_t step,
                              const word *query, int64_t query_stride, int64_t dim, int64_t from, int64_t to,
                              float *scores, int64_t stride) {
    const int64_t ahead = prefetch_distance(format, dim, step);
    for (int64_t j = from; j < to; j += DIRECT_KEYS) {
        const int n = (int)(to - j < DIRECT_KEYS ? to - j : DIRECT_KEYS);
        const char *keys[DIRECT_KEYS];
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k)
            keys[k] = first_key + (j + (k < n ? k : 0)) * step;
        float products[VL];
        direct_products(rows, query, query_stride, keys, format, dim, ahead, products);
        for (int r = 0; r < rows; ++r)
            for (int k = 0; k < n; ++k)
                scores[r * stride + j + k] = products[r * DIRECT_KEYS + k];
    }
}

/* Calls `call` with rows and format as constants, so that sums stay in registers and loads do not branch. */
#define DIRECT_CASE(rows, format, call)   \
    case MFAI_FORMATS *(rows) + (format): \
        call(rows, format);               \
        break;
#if WORD_DEPTH == 1
#define DIRECT_CASES(rows, call)              \
    DIRECT_CASE(rows, MFAI_FORMAT_FP32, call) \
    DIRECT_CASE(rows, MFAI_FORMAT_FP16, call) \
    DIRECT_CASE(rows, MFAI_FORMAT_BF16, call)
#else
#define DIRECT_CASES(rows, call) DIRECT_CASE(rows, MFAI_FORMAT_BF16, call)
#endif
#define DIRECT_SWITCH(rows, format, call)                                              \
    switch (MFAI_FORMATS * ((rows) < DIRECT_ROWS ? (rows) : DIRECT_ROWS) + (format)) { \
        DIRECT_CASES(1, call)                                                          \
        DIRECT_CASES(2, call)                                                          \
        DIRECT_CASES(3, call)                                                          \
        DIRECT_CASES(4, call)                                                          \
    }

/* scores[r * stride + j] for the keys from .. to - 1. */
static void direct_scores(const rows_t *keys, const word *query, int64_t query_stride, int rows, int64_t from,
                          int64_t to, float *scores, int64_t stride) {
    for (int r = 0; r < rows; r += DIRECT_ROWS) {
        const word *q = query + r * query_stride;
        float *s = scores + r * stride;
#define SCORES(n, format) \
    direct_scores_for(n, format, keys->first, keys->step, q, query_stride, keys->columns, from, to, s, stride)
        DIRECT_SWITCH(rows - r, keys->format, SCORES)
#undef SCORES
    }
}

/* Where to prefetch next. Values are read in passes over their columns, but memory is fastest in the order of its lines. */
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
        coming->at -= coming->bytes;
        coming->row += coming->step;
    }
}

/* out (rows x vecs * VL) += weights . values, over the keys from .. to - 1. Where words hold two keys and the first or last lacks
   its partner, the row itself stands in, with the weight 0 that the partner has: nothing unseen is read. */
INLINE void direct_add(const int rows, const int vecs, const int32_t format, const char *first_value, int64_t step,
                       coming_t *coming, int64_t column, int64_t columns, const word *weights, int64_t stride,
                       int64_t from, int64_t to, float *out, int64_t width) {
    vf sum[DIRECT_ROWS][DIRECT_VALUE_VECS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = vf_zero();
    for (int64_t w = from / WORD_DEPTH; w * WORD_DEPTH < to; ++w) {
        const int64_t first = w * WORD_DEPTH, last = first + WORD_DEPTH - 1;
        const char *even = first_value + (first < from ? from : first) * step;
        const char *odd = first_value + (last < to ? last : to - 1) * step;
        vf value[DIRECT_VALUE_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) {
            const int64_t at = column + v * VL;
            value[v] = load_value_words(even, odd, format, at, columns - at < VL ? (int)(columns - at) : VL);
        }
        for (int d = 0; d < WORD_DEPTH; ++d)
            prefetch_coming(coming, vecs * VL * mfai_format_bytes(format, 1));
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const vf weight = vf_set1(weights[r * stride + w]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                sum[r][v] = WORD_FMA(sum[r][v], weight, value[v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            vf_store(out + r * width + v * VL, vf_add(vf_load(out + r * width + v * VL), sum[r][v]));
}

INLINE void direct_values_for(const int rows, const int32_t format, const char *first_value, int64_t step,
                              int64_t columns, const word *weights, int64_t stride, int64_t from, int64_t to,
                              float *out, int64_t width) {
    const int64_t ahead = prefetch_distance(format, columns, step);
    for (int64_t j = from; j < to; j = j / DIRECT_VALUE_KEYS * DIRECT_VALUE_KEYS + DIRECT_VALUE_KEYS) {
        int64_t end = (j / DIRECT_VALUE_KEYS + 1) * DIRECT_VALUE_KEYS;
        end = end < to ? end : to;
        coming_t coming = {first_value + j * step + ahead, 0, columns * mfai_format_bytes(format, 1), step};
        int64_t column = 0;
        for (; column + (DIRECT_VALUE_VECS - 1) * VL < columns; column += DIRECT_VALUE_VECS * VL)
            direct_add(rows, DIRECT_VALUE_VECS, format, first_value, step, &coming, column, columns, weights, stride, j,
                       end, out + column, width);
        for (; column < columns; column += VL)
            direct_add(rows, 1, format, first_value, step, &coming, column, columns, weights, stride, j, end,
                       out + column, width);
    }
}

/* out += weights . values for at most DIRECT_ROWS rows, over the keys from .. to - 1. */
static void direct_values(const rows_t *values, const word *weights, int64_t stride, int rows, int64_t from, int64_t to,
                          float *out, int64_t width) {
#define VALUES(n, format) \
    direct_values_for(n, format, values->first, values->step, values->columns, weights, stride, from, to, out, width)
    DIRECT_SWITCH(rows, values->format, VALUES)
#undef VALUES
}

#undef DIRECT_SWITCH
#undef DIRECT_CASES
#undef DIRECT_CASE

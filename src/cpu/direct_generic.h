/*
 * Products for a few query rows, as in decoding: keys and values are read where they lie, once for all rows that share them, so
 * that the time is that of reading memory. Packing them first would read, write and read again.
 */
#if WORD_DEPTH == 1

enum {
    DIRECT_ROWS = 4,                /* rows that one pass over keys or values serves */
    DIRECT_KEYS = VL / DIRECT_ROWS, /* keys whose products with those rows fill a vector */
    DIRECT_VALUE_KEYS = 16,         /* keys whose values are added while sums stay in the nearest cache */
    DIRECT_VALUE_VECS = 4,
};

/* DIRECT_KEYS keys times `rows` queries: products[row * DIRECT_KEYS + key]. */
INLINE void direct_products(const int rows, const float *query, int64_t query_stride,
                            const char *const keys[DIRECT_KEYS], int32_t precision, int64_t dim, float *products) {
    vf sum[VL];
#pragma GCC unroll 16
    for (int i = 0; i < VL; ++i)
        sum[i] = vf_zero();
    for (int64_t d = 0; d < dim; d += VL) {
        const int n = (int)(dim - d < VL ? dim - d : VL);
        vf key[DIRECT_KEYS];
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k)
            key[k] = load_converted(keys[k], precision, d, n);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const vf q = vf_load(query + r * query_stride + d);
#pragma GCC unroll 4
            for (int k = 0; k < DIRECT_KEYS; ++k)
                sum[r * DIRECT_KEYS + k] = vf_fma(q, key[k], sum[r * DIRECT_KEYS + k]);
        }
    }
    vf_transpose(sum);
    vf total = sum[0];
#pragma GCC unroll 16
    for (int i = 1; i < VL; ++i)
        total = vf_add(total, sum[i]);
    vf_store(products, total);
}

INLINE void direct_scores_for(const int rows, const mfai_view_t *key, const int32_t precision, const char *first_key,
                              const float *query, int64_t query_stride, int64_t dim, int64_t from, int64_t to,
                              float *scores, int64_t stride) {
    const int64_t step = key->stride[2] * mfai_precision_size(precision);
    for (int64_t j = from; j < to; j += DIRECT_KEYS) {
        const int n = (int)(to - j < DIRECT_KEYS ? to - j : DIRECT_KEYS);
        const char *keys[DIRECT_KEYS];
#pragma GCC unroll 4
        for (int k = 0; k < DIRECT_KEYS; ++k)
            keys[k] = first_key + (j + (k < n ? k : 0)) * step;
        float products[VL];
        direct_products(rows, query, query_stride, keys, precision, dim, products);
        for (int r = 0; r < rows; ++r)
            for (int k = 0; k < n; ++k)
                scores[r * stride + j + k] = products[r * DIRECT_KEYS + k];
    }
}

/* The rows of a pass as a constant, so that its sums stay in registers. */
#define DIRECT_PASS(rows, call) \
    do {                        \
        if ((rows) >= 4)        \
            call(4);            \
        else if ((rows) == 3)   \
            call(3);            \
        else if ((rows) == 2)   \
            call(2);            \
        else                    \
            call(1);            \
    } while (0)

/* scores[r * stride + j] for the keys from .. to - 1 of the block that starts at `first_key`. */
static void direct_scores(const mfai_view_t *key, const char *first_key, const float *query, int64_t query_stride,
                          int64_t dim, int rows, int64_t from, int64_t to, float *scores, int64_t stride) {
    for (int r = 0; r < rows; r += DIRECT_ROWS) {
        const float *q = query + r * query_stride;
        float *s = scores + r * stride;
#define SCORES(n)                                                                                              \
    (key->precision == MFA_PRECISION_FP32                                                                      \
         ? direct_scores_for(n, key, MFA_PRECISION_FP32, first_key, q, query_stride, dim, from, to, s, stride) \
     : key->precision == MFA_PRECISION_FP16                                                                    \
         ? direct_scores_for(n, key, MFA_PRECISION_FP16, first_key, q, query_stride, dim, from, to, s, stride) \
         : direct_scores_for(n, key, MFA_PRECISION_BF16, first_key, q, query_stride, dim, from, to, s, stride))
        DIRECT_PASS(rows - r, SCORES);
#undef SCORES
    }
}

/* out (rows x vecs * VL) += weights . values, over the keys from .. to - 1 */
INLINE void direct_add(const int rows, const int vecs, const int32_t precision, const char *first_value, int64_t step,
                       int64_t column, int64_t columns, const float *weights, int64_t stride, int64_t from, int64_t to,
                       float *out, int64_t width) {
    vf sum[DIRECT_ROWS][DIRECT_VALUE_VECS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = vf_load(out + r * width + v * VL);
    for (int64_t j = from; j < to; ++j) {
        const char *row = first_value + j * step;
        vf value[DIRECT_VALUE_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) {
            const int64_t at = column + v * VL;
            value[v] = load_converted(row, precision, at, columns - at < VL ? (int)(columns - at) : VL);
        }
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
            const vf weight = vf_set1(weights[r * stride + j]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                sum[r][v] = vf_fma(weight, value[v], sum[r][v]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            vf_store(out + r * width + v * VL, sum[r][v]);
}

INLINE void direct_values_for(const int rows, const mfai_view_t *value, const int32_t precision,
                              const char *first_value, const float *weights, int64_t stride, int64_t from, int64_t to,
                              float *out, int64_t width) {
    const int64_t step = value->stride[2] * mfai_precision_size(precision), columns = value->shape[3];
    for (int64_t j = from; j < to; j += DIRECT_VALUE_KEYS) {
        const int64_t end = to - j < DIRECT_VALUE_KEYS ? to : j + DIRECT_VALUE_KEYS;
        int64_t column = 0;
        for (; column + (DIRECT_VALUE_VECS - 1) * VL < columns; column += DIRECT_VALUE_VECS * VL)
            direct_add(rows, DIRECT_VALUE_VECS, precision, first_value, step, column, columns, weights, stride, j, end,
                       out + column, width);
        for (; column < columns; column += VL)
            direct_add(rows, 1, precision, first_value, step, column, columns, weights, stride, j, end, out + column,
                       width);
    }
}

static void direct_values(const mfai_view_t *value, const char *first_value, const float *weights, int64_t stride,
                          int rows, int64_t from, int64_t to, float *out, int64_t width) {
    for (int r = 0; r < rows; r += DIRECT_ROWS) {
        const float *w = weights + r * stride;
        float *o = out + r * width;
#define VALUES(n)                                                                                      \
    (value->precision == MFA_PRECISION_FP32                                                            \
         ? direct_values_for(n, value, MFA_PRECISION_FP32, first_value, w, stride, from, to, o, width) \
     : value->precision == MFA_PRECISION_FP16                                                          \
         ? direct_values_for(n, value, MFA_PRECISION_FP16, first_value, w, stride, from, to, o, width) \
         : direct_values_for(n, value, MFA_PRECISION_BF16, first_value, w, stride, from, to, o, width))
        DIRECT_PASS(rows - r, VALUES);
#undef VALUES
    }
}

#undef DIRECT_PASS
#endif

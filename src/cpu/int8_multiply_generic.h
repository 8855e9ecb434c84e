/* Products of codes on register tiles, and what becomes of their sums. */

/* sum += codes of `rows` left rows, `depth` words, by those of vecs * VL packed columns; the unsigned ones are those of
   the columns where these are keys, else those on the left. */
INLINE void multiply_codes(const bool are_keys, const int rows, const int vecs, left_t a, const lane32 *b,
                           int64_t depth, vw sum[ROW_TILE][PANEL_VECS]) {
    for (int64_t k = 0; k < depth; ++k) {
        vf column[PANEL_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            column[v] = vf_load(b + (k * vecs + v) * VL);
#pragma GCC unroll 32
        for (int r = 0; r < rows; ++r) {
            const vf broadcast = vf_set1(a.first[r * a.stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                sum[r][v] =
                    are_keys ? vw_dot(column[v], broadcast, sum[r][v]) : vw_dot(broadcast, column[v], sum[r][v]);
        }
    }
}

/* From sums of codes to scores: row_factor * key_scale * (sum - key_zero * row_sum) + what there was, row_mean before
   the first group. Of rows and keys of one tile. */
typedef struct {
    const int32_t *row_starts;
    const float *row_factors, *row_means; /* row_means: NULL behind the first group */
    const float *row_sums;
    const float *key_scales, *key_zeros; /* key_zeros: NULL if they are in row_starts */
} score_terms_t;

/* Of one row, for the keys from `key` on. */
INLINE void add_score_sums(vf x, const score_terms_t *terms, int row, int64_t key, float *to) {
    if (terms->key_zeros != NULL)
        x = vf_fma(vf_load(terms->key_zeros + key), vf_set1(-terms->row_sums[row]), x);
    const vf before = terms->row_means != NULL ? vf_set1(terms->row_means[row]) : vf_load(to);
    vf_store(to, vf_fma(vf_mul(x, vf_load(terms->key_scales + key)), vf_set1(terms->row_factors[row]), before));
}

INLINE void score_tile(const int rows, const int vecs, left_t query, const lane32 *keys, int64_t depth,
                       const score_terms_t *terms, sums_t scores) {
    vw sum[ROW_TILE][PANEL_VECS];
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = vw_set1((uint32_t)terms->row_starts[r]);
    multiply_codes(true, rows, vecs, query, keys, depth, sum);
#pragma GCC unroll 4
    for (int v = 0; v < vecs; ++v)
#pragma GCC unroll 32
        for (int r = 0; r < rows; ++r)
            add_score_sums(vf_from_int(sum[r][v]), terms, r, v * VL, scores.first + r * scores.stride + v * VL);
}

/* From sums of codes to sums of values: out = out * correction + weight_scale * factor * (sum - zero * weight_sum). */
typedef struct {
    const float *corrections, *weight_scales, *weight_sums; /* of rows; weight_sums: NULL if there are no zeros */
    const float *zeros, *factors;                           /* of columns; factors: NULL if they come later */
} value_terms_t;

/* Of one row, for the columns from `column` on. */
INLINE void add_value_sums(vw sum, const value_terms_t *terms, int row, int64_t column, float *to) {
    vf x = vf_from_int(sum);
    if (terms->weight_sums != NULL)
        x = vf_fma(vf_load(terms->zeros + column), vf_set1(-terms->weight_sums[row]), x);
    if (terms->factors != NULL)
        x = vf_mul(x, vf_load(terms->factors + column));
    vf_store(to, vf_fma(x, vf_set1(terms->weight_scales[row]), vf_mul(vf_load(to), vf_set1(terms->corrections[row]))));
}

INLINE void value_tile(const int rows, const int vecs, left_t weights, const lane32 *values, int64_t depth,
                       const value_terms_t *terms, sums_t out) {
    vw sum[ROW_TILE][PANEL_VECS];
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = vw_zero();
    multiply_codes(false, rows, vecs, weights, values, depth, sum);
#pragma GCC unroll 4
    for (int v = 0; v < vecs; ++v)
#pragma GCC unroll 32
        for (int r = 0; r < rows; ++r)
            add_value_sums(sum[r][v], terms, r, v * VL, out.first + r * out.stride + v * VL);
}

#define TILE_ROWS(tile, n)                                          \
    case n:                                                         \
        if (n <= ROW_TILE) {                                        \
            if (full)                                               \
                tile(n, PANEL_VECS, left, right, depth, terms, to); \
            else                                                    \
                tile(n, 1, left, right, depth, terms, to);          \
        }                                                           \
        return;

/* Of a tile of any size, as constants. */
#define DEFINE_TILE(name, tile, terms_t)                                                                         \
    static void name(int rows, bool full, left_t left, const lane32 *right, int64_t depth, const terms_t *terms, \
                     sums_t to) {                                                                                \
        switch (rows) {                                                                                          \
            TILE_ROWS(tile, 1)                                                                                   \
            TILE_ROWS(tile, 2)                                                                                   \
            TILE_ROWS(tile, 3)                                                                                   \
            TILE_ROWS(tile, 4)                                                                                   \
            TILE_ROWS(tile, 5)                                                                                   \
            TILE_ROWS(tile, 6)                                                                                   \
            TILE_ROWS(tile, 7)                                                                                   \
            TILE_ROWS(tile, 8)                                                                                   \
            TILE_ROWS(tile, 9)                                                                                   \
            TILE_ROWS(tile, 10)                                                                                  \
            TILE_ROWS(tile, 11)                                                                                  \
            TILE_ROWS(tile, 12)                                                                                  \
        }                                                                                                        \
    }

DEFINE_TILE(multiply_queries, score_tile, score_terms_t)
DEFINE_TILE(multiply_weights, value_tile, value_terms_t)
#undef DEFINE_TILE
#undef TILE_ROWS

/* Weights, times `factors` unless NULL, become bytes; returns what these are to be multiplied with. `count` is whole
   vectors. */
INLINE float round_weights(const float *weights, const float *factors, int64_t count, uint8_t *bytes) {
    vf most = vf_zero();
    for (int64_t j = 0; j < count; j += VL) {
        const vf x = vf_load(weights + j);
        most = vf_max(most, factors ? vf_mul(x, vf_load(factors + j)) : x);
    }
    /* Smaller ones are nothing beside the row's largest, which is 1 if it does not lie in another tile. */
    const float largest = fmaxf(vf_hmax(most), 0x1p-100f);
    const vf inverse = vf_set1(255 / largest);
    for (int64_t j = 0; j < count; j += VL) {
        const vf x = vf_load(weights + j);
        store_unsigned_bytes(bytes + j, vf_mul(factors ? vf_mul(x, vf_load(factors + j)) : x, inverse));
    }
    return largest / 255;
}

/* Of rounded weights times zero points, a byte each, from the words before `first` on. */
static float sum_zeros(const uint8_t *weights, const int8_t *zeros, int64_t count) {
    vw sum = vw_zero();
    for (int64_t j = 0; j < count; j += 4 * VL)
        sum = vw_dot(load_bytes_n(weights + j, count - j), load_bytes_n(zeros + j, count - j), sum);
    return (float)vw_sum(sum);
}

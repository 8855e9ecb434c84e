/* Matrix products on register tiles. */
/* What becomes of what c held. It is added last: sums that start anew at each block round less than one long sum. */
enum { REPLACE, RESCALE, ADD };

/* c (rows x vecs * VL) = [c [* rescale] +] a (rows x depth words) . b (depth x vecs * VL, packed). If `turned`, a holds
   its columns as rows. */
INLINE void multiply_tile(const int mode, const bool turned, const int rows, const int vecs, left_t a, const lane32 *b,
                          int64_t depth, sums_t c, const float *rescale) {
    vf sum[ROW_TILE][PANEL_VECS];
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = vf_zero();
    for (int64_t k = 0; k < depth; ++k) {
        vf column[PANEL_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            column[v] = vf_load(b + (k * vecs + v) * VL);
#pragma GCC unroll 32
        for (int r = 0; r < rows; ++r) {
            vf broadcast = vf_set1(turned ? a.first[k * a.stride + r] : a.first[r * a.stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                sum[r][v] = WORD_FMA(broadcast, column[v], sum[r][v]);
        }
    }
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) {
            float *to = c.first + r * c.stride + v * VL;
            vf_store(to, mode == RESCALE ? vf_fma(vf_load(to), vf_set1(rescale[r]), sum[r][v])
                         : mode == ADD   ? vf_add(vf_load(to), sum[r][v])
                                         : sum[r][v]);
        }
}

#define MULTIPLY_ROWS(mode, turned, n)                                               \
    case n:                                                                          \
        if (n <= ROW_TILE) {                                                         \
            if (full)                                                                \
                multiply_tile(mode, turned, n, PANEL_VECS, a, b, depth, c, rescale); \
            else                                                                     \
                multiply_tile(mode, turned, n, 1, a, b, depth, c, rescale);          \
        }                                                                            \
        return;

#define DEFINE_MULTIPLY(name, mode, turned)                                                                           \
    static void name(int rows, bool full, left_t a, const lane32 *b, int64_t depth, sums_t c, const float *rescale) { \
        (void)rescale;                                                                                                \
        switch (rows) {                                                                                               \
            MULTIPLY_ROWS(mode, turned, 1)                                                                            \
            MULTIPLY_ROWS(mode, turned, 2)                                                                            \
            MULTIPLY_ROWS(mode, turned, 3)                                                                            \
            MULTIPLY_ROWS(mode, turned, 4)                                                                            \
            MULTIPLY_ROWS(mode, turned, 5)                                                                            \
            MULTIPLY_ROWS(mode, turned, 6)                                                                            \
            MULTIPLY_ROWS(mode, turned, 7)                                                                            \
            MULTIPLY_ROWS(mode, turned, 8)                                                                            \
            MULTIPLY_ROWS(mode, turned, 9)                                                                            \
            MULTIPLY_ROWS(mode, turned, 10)                                                                           \
            MULTIPLY_ROWS(mode, turned, 11)                                                                           \
            MULTIPLY_ROWS(mode, turned, 12)                                                                           \
        }                                                                                                             \
    }

DEFINE_MULTIPLY(multiply_replace, REPLACE, false)
DEFINE_MULTIPLY(multiply_rescale, RESCALE, false)
DEFINE_MULTIPLY(multiply_add, ADD, false)
DEFINE_MULTIPLY(multiply_add_turned, ADD, true)
#undef DEFINE_MULTIPLY
#undef MULTIPLY_ROWS

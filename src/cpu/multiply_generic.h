/* Matrix products on register tiles of ROW_TILE rows and two vectors of columns. */
enum { PANEL_VECS = 2, PANEL = PANEL_VECS * VL, SUB_ROWS = 2 * ROW_TILE };

typedef float __attribute__((may_alias)) word;

/* c (rows x vecs * VL) = [c * rescale +] a (rows x depth words) . b (depth x vecs * VL, packed) */
INLINE void multiply_tile(const int rows, const int vecs, const word *a, int64_t a_stride, const word *b, int64_t depth,
                          float *c, int64_t c_stride, const float *rescale) {
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
            vf broadcast = vf_set1(a[r * a_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                sum[r][v] = WORD_FMA(sum[r][v], broadcast, column[v]);
        }
    }
    /* What c held is added last: sums that start anew at each block round less than one long sum. */
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v) {
            float *to = c + r * c_stride + v * VL;
            vf_store(to, rescale ? vf_fma(vf_load(to), vf_set1(rescale[r]), sum[r][v]) : sum[r][v]);
        }
}

#define MULTIPLY_ROWS(n)                                                                   \
    case n:                                                                                \
        if (n <= ROW_TILE) {                                                               \
            if (full)                                                                      \
                multiply_tile(n, PANEL_VECS, a, a_stride, b, depth, c, c_stride, rescale); \
            else                                                                           \
                multiply_tile(n, 1, a, a_stride, b, depth, c, c_stride, rescale);          \
        }                                                                                  \
        return;

#define DEFINE_MULTIPLY(name, RESCALE)                                                                             \
    static void name(int rows, bool full, const word *a, int64_t a_stride, const word *b, int64_t depth, float *c, \
                     int64_t c_stride RESCALE) {                                                                   \
        switch (rows) {                                                                                            \
            MULTIPLY_ROWS(1)                                                                                       \
            MULTIPLY_ROWS(2)                                                                                       \
            MULTIPLY_ROWS(3)                                                                                       \
            MULTIPLY_ROWS(4)                                                                                       \
            MULTIPLY_ROWS(5)                                                                                       \
            MULTIPLY_ROWS(6)                                                                                       \
            MULTIPLY_ROWS(7)                                                                                       \
            MULTIPLY_ROWS(8)                                                                                       \
            MULTIPLY_ROWS(9)                                                                                       \
            MULTIPLY_ROWS(10)                                                                                      \
            MULTIPLY_ROWS(11)                                                                                      \
            MULTIPLY_ROWS(12)                                                                                      \
        }                                                                                                          \
    }

#define RESCALE_ARGUMENT , const float *rescale
DEFINE_MULTIPLY(multiply_add, RESCALE_ARGUMENT)
#define rescale ((const float *)NULL)
DEFINE_MULTIPLY(multiply, )
#undef rescale
#undef RESCALE_ARGUMENT
#undef DEFINE_MULTIPLY
#undef MULTIPLY_ROWS

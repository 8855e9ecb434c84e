/* Register tiles of ROW_TILE rows and two vectors of columns. */
enum { PANEL_VECS = 2, PANEL = PANEL_VECS * VL, SUB_ROWS = 2 * ROW_TILE };

typedef float __attribute__((may_alias)) lane32;

/* Rows of a matrix, `stride` apart: words on the left side of a product, and sums. */
typedef struct {
    const lane32 *first;
    int64_t stride;
} left_t;
typedef struct {
    float *first;
    int64_t stride;
} sums_t;

/* A panel is two vectors of columns wide; the last one is a single vector if that holds what is left. */
INLINE bool panel_is_full(int64_t panel, int64_t columns) { return columns - panel * PANEL > VL; }

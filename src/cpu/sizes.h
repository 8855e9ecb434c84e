/* Arithmetic on sizes, and the sizes that the CPU backend refuses. */
#ifndef MFA_CPU_SIZES_H
#define MFA_CPU_SIZES_H

#include <inttypes.h>

#include "attn/rows.h"
#include "core/problem.h"

static inline int64_t mfai_round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static inline int64_t mfai_ceil_div(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }
static inline int64_t mfai_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t mfai_clamp(int64_t n, int64_t least, int64_t most) {
    return n < least ? least : n > most ? most : n;
}

/* Floats that hold `count` elements, in whole cache lines. */
static inline int64_t mfai_lines(int64_t count) { return mfai_round_up(count, 16); }

/* Makes room for `count` floats in scratch memory of `*size`, and returns where. */
static inline int64_t mfai_take(int64_t *size, int64_t count) {
    const int64_t taken = *size;
    *size += mfai_lines(count);
    return taken;
}

/* Floats that hold a table of rows. */
enum { MFAI_ROW_TABLE_FLOATS = (int)MFAI_ROWS_TABLE * (int)(sizeof(char *) / sizeof(float)) };

enum { MFAI_MOST_HEAD_DIM = 1 << 20 };

/* Beyond this, sizes of scratch memory would need care with overflow. */
static inline mfa_status_t mfai_check_head_dims(const mfai_problem_t *p) {
    if (p->head_dim <= MFAI_MOST_HEAD_DIM && p->value_dim <= MFAI_MOST_HEAD_DIM)
        return MFA_SUCCESS;
    return mfai_fail(MFA_ERROR_UNSUPPORTED,
                     "head_dim is %" PRId64 " (query) and %" PRId64 " (value); the CPU backend takes up to %d",
                     p->head_dim, p->value_dim, MFAI_MOST_HEAD_DIM);
}

#endif

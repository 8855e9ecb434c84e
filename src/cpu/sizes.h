/* Sizes of scratch memory, in floats. */
#ifndef MFA_CPU_SIZES_H
#define MFA_CPU_SIZES_H

#include "attn/rows.h"
#include "core/integers.h"

/* Floats that hold `count` elements, in whole cache lines. */
static inline int64_t mfai_cpu_lines(int64_t count) { return mfai_round_up(count, 16); }

/* Makes room for `count` floats in scratch memory of `*size`, and returns where. */
static inline int64_t mfai_cpu_take(int64_t *size, int64_t count) {
    const int64_t taken = *size;
    *size += mfai_cpu_lines(count);
    return taken;
}

/* Floats that hold a table of rows. */
enum { MFAI_CPU_ROW_TABLE_FLOATS = (int)MFAI_ROWS_TABLE * (int)(sizeof(char *) / sizeof(float)) };

#endif

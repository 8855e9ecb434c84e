/* Arithmetic on sizes, which are not negative. */
#ifndef MFA_CORE_INTEGERS_H
#define MFA_CORE_INTEGERS_H

#include <stdint.h>

static inline int64_t mfai_ceil_div(int64_t n, int64_t divisor) { return n / divisor + (n % divisor != 0); }
static inline int64_t mfai_round_up(int64_t n, int64_t multiple) { return mfai_ceil_div(n, multiple) * multiple; }
static inline int64_t mfai_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t mfai_clamp(int64_t n, int64_t least, int64_t most) {
    return n < least ? least : n > most ? most : n;
}

#endif

#ifndef MFA_CPU_CLOCK_H
#define MFA_CPU_CLOCK_H

#include <time.h>

/* Seconds on a clock that only runs forward. */
static inline double mfai_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

#endif

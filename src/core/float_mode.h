/*
 * The floating-point environment of a thread: how it rounds, what becomes of denormals, which exceptions trap. The
 * library has one of its own, so that results do not depend on the caller's, nor on which thread computes them: to
 * nearest, denormals kept, nothing traps.
 */
#ifndef MFA_CORE_FLOAT_MODE_H
#define MFA_CORE_FLOAT_MODE_H

#include <stdint.h>

#if defined(__x86_64__) || defined(__aarch64__)
typedef struct {
    uint64_t control, flags; /* x86-64 has both in control */
} mfai_float_mode_t;
#else
#include <fenv.h>
typedef fenv_t mfai_float_mode_t;
#endif

/* Puts the calling thread into the library's mode and returns what it had, exception flags included. */
mfai_float_mode_t mfai_float_mode_enter(void);
void mfai_float_mode_leave(const mfai_float_mode_t *before);

#endif

/*
 * What the library changes in the calling thread for the time of a call, and gives back: its floating-point environment
 * is the library's, and it cannot be cancelled, since that would leave locks held, memory lost, and workers on a job of
 * a dead stack.
 */
#ifndef MFA_CORE_ENTRY_H
#define MFA_CORE_ENTRY_H

#include "core/float_mode.h"

typedef struct {
    mfai_float_mode_t floats;
    int cancellation; /* state, as pthread_setcancelstate has it */
} mfai_caller_t;

mfai_caller_t mfai_enter(void);
void mfai_leave(const mfai_caller_t *caller);

/* The first statement of every function of mfa.h that does more than look something up. */
#define MFAI_ENTRY const mfai_caller_t entered __attribute__((cleanup(mfai_leave), unused)) = mfai_enter()

#endif

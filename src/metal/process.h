/* Metal and fork: a child may not touch what its parent made with Metal, nor begin anew before it calls exec. */
#ifndef MFA_METAL_PROCESS_H
#define MFA_METAL_PROCESS_H

#include "core/status.h"

#define MFAI_METAL_FORKED "Metal does not work in a process forked from one that has used it"

/* Whether this process was forked from one that had used Metal. If not, it counts as using it from now on. */
bool mfai_metal_is_forked(void);

/* Fails if it was. */
mfa_status_t mfai_metal_check_process(void);

#endif

/* Blocks of the scores that count: what their lists have to be. */
#ifndef MFA_CORE_BLOCKS_H
#define MFA_CORE_BLOCKS_H

#include "core/problem.h"

/* Which lists there are, how their shapes agree and, where the CPU can read them, what they say, in one pass. The
   operands' shapes have been checked. */
mfa_status_t mfai_blocks_check(const mfai_problem_t *problem);

#endif

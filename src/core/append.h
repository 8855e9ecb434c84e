/* What a call that appends has to be beside the shapes of its operands. */
#ifndef MFA_CORE_APPEND_H
#define MFA_CORE_APPEND_H

#include "core/problem.h"

mfa_status_t mfai_append_check(const mfai_problem_t *problem);

#endif

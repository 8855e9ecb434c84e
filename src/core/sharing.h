/* Rows of key and value that a call writes to: no two rows of sequences may lie at the same place. */
#ifndef MFA_CORE_SHARING_H
#define MFA_CORE_SHARING_H

#include "core/problem.h"

/* A page, or batch of the cache, that new rows are written to is reached by one sequence alone, once; in a backward
   call each is. What is only read may be shared. Takes time in proportion to the pages that are reached. */
mfa_status_t mfai_sharing_check(const mfai_problem_t *problem);

#endif

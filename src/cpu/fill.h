/* Rows of results that belong to no sequence. */
#ifndef MFA_CPU_FILL_H
#define MFA_CPU_FILL_H

#include "core/problem.h"

/* Before the kernels write the others: makes results 0, and logsumexp -inf, on each side, queries or keys, that has
   rows which belong to no sequence. At most `width` threads. */
void mfai_cpu_fill(const mfai_problem_t *problem, int width);

#endif

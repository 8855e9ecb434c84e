/* New rows for the cache, and the rotary embedding of them and of queries. */
#ifndef MFA_CPU_APPEND_H
#define MFA_CPU_APPEND_H

#include "cpu/device.h"

/* Sizes the work of a problem that appends; `*workspace` floats hold what it needs. */
mfai_cpu_append_job_t mfai_cpu_append_plan(const mfai_cpu_device_t *device, const mfai_problem_t *problem,
                                           int64_t *workspace);

/* Writes the new rows. `left` becomes the problem that is left to be run, whose queries, if turned, lie in `memory`. */
void mfai_cpu_append(mfai_cpu_append_job_t *job, char *memory, mfai_problem_t *left);

#endif

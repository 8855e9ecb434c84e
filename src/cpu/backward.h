/* The CPU backend's backward pass. */
#ifndef MFA_CPU_BACKWARD_H
#define MFA_CPU_BACKWARD_H

#include "core/backend.h"

mfa_status_t mfai_cpu_backward_plan(void *device, const mfai_problem_t *problem, const mfai_gradients_t *gradients,
                                    mfa_plan_t *plan);
mfa_status_t mfai_cpu_backward(void *device, const mfai_problem_t *problem, const mfai_gradients_t *gradients,
                               double *seconds);

#endif

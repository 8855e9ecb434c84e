#ifndef MFA_METAL_FORWARD_H
#define MFA_METAL_FORWARD_H

#include "core/backend.h"

/* As in mfai_backend_t. */
mfa_status_t mfai_metal_forward_plan(void *device, const mfai_problem_t *problem, mfa_plan_t *plan);
mfa_status_t mfai_metal_forward(void *device, const mfai_problem_t *problem, double *seconds);
mfa_status_t mfai_metal_forward_encode(void *device, const mfai_problem_t *problem, void *target);

#endif

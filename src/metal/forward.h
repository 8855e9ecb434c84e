#ifndef MFA_METAL_FORWARD_H
#define MFA_METAL_FORWARD_H

#include "core/backend.h"
#import "metal/call.h"

/* What a forward call consists of, and the tile of its first kernel. */
mfa_status_t mfai_metal_forward_make(const mfai_metal_device_t *device, const mfai_problem_t *problem,
                                     mfai_metal_call_t *call, mfai_metal_tile_t *tile);

/* As in mfai_backend_t. */
mfa_status_t mfai_metal_forward_plan(void *device, const mfai_problem_t *problem, mfa_plan_t *plan);
mfa_status_t mfai_metal_forward(void *device, const mfai_problem_t *problem, double *seconds);
mfa_status_t mfai_metal_forward_encode(void *device, const mfai_problem_t *problem, void *target);

#endif

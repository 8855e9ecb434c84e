#ifndef MFA_METAL_BACKWARD_H
#define MFA_METAL_BACKWARD_H

#include "core/backend.h"
#import "metal/call.h"

/* What a backward call consists of. */
mfa_status_t mfai_metal_backward_make(const mfai_metal_device_t *device, const mfai_problem_t *problem,
                                      const mfai_gradients_t *gradients, mfai_metal_call_t *call);

/* As in mfai_backend_t. */
mfa_status_t mfai_metal_backward_plan(void *device, const mfai_problem_t *problem, const mfai_gradients_t *gradients,
                                      mfa_plan_t *plan);
mfa_status_t mfai_metal_backward(void *device, const mfai_problem_t *problem, const mfai_gradients_t *gradients,
                                 double *seconds);
mfa_status_t mfai_metal_backward_encode(void *device, const mfai_problem_t *problem, const mfai_gradients_t *gradients,
                                        void *target);

#endif

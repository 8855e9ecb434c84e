#ifndef MFA_METAL_BACKWARD_H
#define MFA_METAL_BACKWARD_H

#import "metal/call.h"

/* What a backward call consists of. */
mfa_status_t mfai_metal_backward_make(const mfai_metal_device_t *device, const mfai_problem_t *problem,
                                      mfai_metal_call_t *call);

#endif

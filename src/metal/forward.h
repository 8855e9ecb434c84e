#ifndef MFA_METAL_FORWARD_H
#define MFA_METAL_FORWARD_H

#import "metal/call.h"

/* What a forward call consists of. */
mfa_status_t mfai_metal_forward_make(const mfai_metal_device_t *device, const mfai_problem_t *problem,
                                     mfai_metal_call_t *call);

#endif

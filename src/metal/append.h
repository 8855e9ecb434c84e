/* What comes before attention: new rows for the cache, and queries turned by their positions, or rounded. */
#ifndef MFA_METAL_APPEND_H
#define MFA_METAL_APPEND_H

#import "metal/call.h"

/* Adds its dispatches, for which those that read keys, values and queries have to wait; nothing for a problem that does
   not append. */
mfa_status_t mfai_metal_add_append(mfai_metal_call_t *call, const mfai_problem_t *problem);

/* Then, where products of keys are those of integers: its dispatch rounds queries, turned ones in their place. */
mfa_status_t mfai_metal_add_quantise(mfai_metal_call_t *call, const mfai_problem_t *problem);

#endif

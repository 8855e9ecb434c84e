/* Which view is which operand of the kernels. */
#ifndef MFA_METAL_OPERANDS_H
#define MFA_METAL_OPERANDS_H

#import "metal/call.h"

/* The operands of a forward call: all read but for the last two, which are read too if the call is a backward one. */
void mfai_metal_add_forward_operands(mfai_metal_call_t *call, const mfai_problem_t *problem,
                                     mfai_metal_access_t results);

void mfai_metal_add_gradient_operands(mfai_metal_call_t *call, const mfai_gradients_t *gradients);

#endif

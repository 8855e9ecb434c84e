/* Which view is which operand of the kernels. */
#ifndef MFA_METAL_OPERANDS_H
#define MFA_METAL_OPERANDS_H

#import "metal/call.h"

/* The operands that the problem has and its pass uses. */
void mfai_metal_add_operands(mfai_metal_call_t *call, const mfai_problem_t *problem);

#endif

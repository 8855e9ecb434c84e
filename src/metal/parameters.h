/* The problem as the kernels read it. */
#ifndef MFA_METAL_PARAMETERS_H
#define MFA_METAL_PARAMETERS_H

#include "core/problem.h"
#include "mfa_params.h"

/* Fills in all but strides, which depend on where operands come to lie, and tiles; or refuses head dimensions beyond
   MFAI_MOST_HEAD_DIM. */
mfa_status_t mfai_metal_parameters(const mfai_problem_t *problem, mfa_metal_params *params);

#endif

/* Logarithms' constants beyond those of every backend. */
#ifndef MFA_CPU_CONSTANTS_H
#define MFA_CPU_CONSTANTS_H

#include "mfa_constants.h"

#define MFA_LOG2_E_DOUBLE 0x1.71547652b82fep+0

#endif

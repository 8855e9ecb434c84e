/* Logarithms' constants, for every backend. */
#ifndef MFA_CONSTANTS_H
#define MFA_CONSTANTS_H

#define MFA_LOG2_E 1.4426950408889634f
#define MFA_LOG2_E_REST 1.92596303e-8f /* log2(e) - MFA_LOG2_E */
#define MFA_LN_2 0.6931471805599453f

#endif

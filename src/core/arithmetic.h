/* What the sources ask of the compiler: IEEE 754. With less, a row whose query is NaN may count as one that sees no
   key, and exact roundings are lost. */
#ifndef MFA_CORE_ARITHMETIC_H
#define MFA_CORE_ARITHMETIC_H

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || \
    defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || defined(__NO_SIGNED_ZEROS__)
#error "mfa needs IEEE arithmetic: no -ffast-math, -Ofast, -ffinite-math-only or -funsafe-math-optimizations"
#endif

/* Clang has no macros for the last three, but takes the flags back; its -fno-honor-nans alone goes unnoticed. */
#if defined(__clang__)
#pragma float_control(precise, on)
#endif

#endif

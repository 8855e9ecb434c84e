/* Integers of fixed size, by one name in C and in the Metal Shading Language. */
#ifndef MFA_TYPES_H
#define MFA_TYPES_H

#ifdef __METAL_VERSION__
typedef long mfa_index;
typedef uint mfa_u32;
typedef ulong mfa_u64;
#else
#include <stdbool.h>
#include <stdint.h>
typedef int64_t mfa_index;
typedef uint32_t mfa_u32;
typedef uint64_t mfa_u64;
#endif

#endif

/* What the generic kernels and SIMD vocabularies need of the rest, included first: in an instance, inside its target
   region. */
#ifndef MFA_CPU_GENERIC_BEGIN_H
#define MFA_CPU_GENERIC_BEGIN_H

#include "core/arithmetic.h"
#include "core/integers.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "attn/blocks.h"
#include "attn/rows.h"
#include "attn/scales.h"
#include "attn/walk.h"
#include "core/quantization.h"
#include "cpu/code_range.h"
#include "cpu/code_scales.h"
#include "cpu/constants.h"
#include "core/half.h"
#include "cpu/kernels.h"
#include "cpu/threads.h"

#define INLINE static inline __attribute__((always_inline))

/* 2^f on [0, 1) as 1 + f * (C1 + f * ...): minimax in relative error, 8.3e-8. */
#define EXP2_C1 0x1.62e4bap-1f
#define EXP2_C2 0x1.ebdb56p-3f
#define EXP2_C3 0x1.c91ce6p-5f
#define EXP2_C4 0x1.277856p-7f
#define EXP2_C5 0x1.e974fap-10f

/* tanh(x) = x + x^3 * (C0 + x^2 * (C1 + ...)) for |x| < 0.625: minimax in relative error, 4.4e-9. */
#define TANH_C0 -0x1.555532p-2f
#define TANH_C1 0x1.110726p-3f
#define TANH_C2 -0x1.b83c58p-5f
#define TANH_C3 0x1.52268ap-6f
#define TANH_C4 -0x1.75e17ep-8f

#endif

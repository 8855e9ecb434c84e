/* The kernels on arm64 with its baseline vector instructions. */
#if defined(__aarch64__)
#include "cpu/generic_begin.h"
#include "cpu/simd_neon.h"

#define KERNEL_NAME "f32_neon"
#define KERNEL mfai_cpu_f32_neon
#define WORD_DEPTH 1
#define WORD_FMA(a, b, c) vf_fma(a, b, c)
#define STORE_WEIGHTS(row, i, x) vf_store((row) + (i), x)
#define FINITE_WORDS(x) vf_finite(x)
#define ROW_TILE 12
#include "cpu/instance.h"
#endif

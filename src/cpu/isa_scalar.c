/* The kernels in plain C: for any processor, and to hold the others against. */
#include "cpu/generic_begin.h"
#include "cpu/simd_scalar.h"

#define KERNEL_NAME "f32_scalar"
#define KERNEL mfai_cpu_f32_scalar
#define WORD_DEPTH 1
#define WORD_FMA(a, b, c) vf_fma(a, b, c)
#define STORE_WEIGHTS(row, i, x) vf_store((row) + (i), x)
#define FINITE_WORDS(x) vf_finite(x)
#define ROW_TILE 4
#include "cpu/instance.h"

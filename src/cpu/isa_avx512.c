/* The kernels on AVX-512. */
#if defined(__x86_64__)
#include "cpu/target.h"

TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")

#include "cpu/generic_begin.h"
#include "cpu/simd_avx512.h"

#define KERNEL_NAME "f32_avx512"
#define KERNEL mfai_cpu_f32_avx512
#define WORD_DEPTH 1
#define WORD_FMA(a, b, c) vf_fma(a, b, c)
#define STORE_WEIGHTS(row, i, x) vf_store((row) + (i), x)
#define FINITE_WORDS(x) vf_finite(x)
#define ROW_TILE 12
#include "cpu/instance.h"

TARGET_END
#endif

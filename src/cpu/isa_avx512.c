/* The kernels on AVX-512, and with its bfloat16 dot product. */
#include "cpu/kernels.h"

#if defined(__x86_64__)
#include "cpu/features.h"

/* A region instead of compiler flags: any build that compiles this file gets the instructions, and only here. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")
#endif

#include "cpu/generic_begin.h"
#include "cpu/simd_avx512.h"
#include "cpu/bias_generic.h"
#include "cpu/pack_generic.h"

#define NAME(x) x##_f32
#define KERNEL_NAME "forward_f32_avx512"
#define WORD_DEPTH 1
#define WORD_FMA(c, a, b) vf_fma(a, b, c)
#define STORE_WEIGHTS(row, i, x) vf_store((row) + (i), x)
#define ROW_TILE 12
#define PANEL_VECS 2
#include "cpu/forward_generic.h"

INLINE vf dot_pairs(vf c, vf a, vf b) {
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
}

/* In place: 16 halves take the room of 8 of the floats already read. */
INLINE void store_bf16_weights(float *row, int64_t i, vf x) {
    _mm256_storeu_si256((void *)((uint16_t *)row + i), (__m256i)_mm512_cvtneps_pbh(x));
}

#define NAME(x) x##_bf16
#define KERNEL_NAME "forward_bf16_avx512"
#define WORD_DEPTH 2
#define WORD_FMA(c, a, b) dot_pairs(c, a, b)
#define STORE_WEIGHTS(row, i, x) store_bf16_weights(row, i, x)
#define ROW_TILE 12
#define PANEL_VECS 2
#include "cpu/forward_generic.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const mfai_cpu_isa_t mfai_isa_avx512 = {MFA_CPU_ISA_AVX512, "avx512", mfai_cpu_has_avx512, &forward_kernel_f32, NULL};
const mfai_cpu_isa_t mfai_isa_avx512bf16 = {MFA_CPU_ISA_AVX512, "avx512bf16", mfai_cpu_has_avx512bf16, &forward_kernel_f32,
                                            &forward_kernel_bf16};
#endif

/* The kernels on AVX-512 with its bfloat16 dot product. */
#if defined(__x86_64__)
#include "cpu/target.h"

TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")

#include "cpu/generic_begin.h"
#include "cpu/simd_avx512.h"

INLINE vf dot_pairs(vf a, vf b, vf c) {
#if defined(__clang__) && __clang_major__ < 18 /* 17, which Swift 6.0 brings, crashes over these casts */
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(c) : "v"(a), "v"(b));
    return c;
#else
    return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
#endif
}

/* In place: 16 halves take the room of 8 of the floats already read. */
INLINE void store_weight_halves(float *row, int64_t i, vf x) {
    _mm256_storeu_si256((void *)((uint16_t *)row + i), (__m256i)_mm512_cvtneps_pbh(x));
}

/* Each word a half of both. */
INLINE vf pair_rows(vf even, vf odd) {
    const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even));
    const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

/* Elements of the first, then of the second. */
INLINE vf join_rows(vf first, vf second) { return (vf)_mm512_cvtne2ps_pbh(second, first); }

/* Zero in place of halves that are not finite. */
INLINE vf finite_halves(vf x) {
    const __m512i words = _mm512_castps_si512(x), exponent = _mm512_set1_epi16(0x7f80);
    return _mm512_castsi512_ps(
        _mm512_maskz_mov_epi16(_mm512_cmpneq_epi16_mask(_mm512_and_si512(words, exponent), exponent), words));
}

#define KERNEL_NAME "bf16_avx512"
#define KERNEL mfai_cpu_bf16_avx512
#define WORD_DEPTH 2
#define WORD_FMA(a, b, c) dot_pairs(a, b, c)
#define STORE_WEIGHTS(row, i, x) store_weight_halves(row, i, x)
#define FINITE_WORDS(x) finite_halves(x)
#define PAIR_ROWS(even, odd) pair_rows(even, odd)
#define JOIN_ROWS(first, second) join_rows(first, second)
#define ROW_TILE 12
#include "cpu/instance.h"

TARGET_END
#endif

/* The kernels on arm64 with the bfloat16 dot product (BFDOT). */
#if defined(__aarch64__)
#include "cpu/target.h"

#if defined(__clang__)
TARGET_BEGIN("bf16")
#else
TARGET_BEGIN("arch=armv8.2-a+bf16")
#endif

#include "cpu/generic_begin.h"
#include "cpu/simd_neon.h"

INLINE vf dot_pairs(vf a, vf b, vf c) {
#if defined(__clang__) && __clang_major__ < 16 /* has the intrinsic only where the whole file is compiled for it */
    __asm__("bfdot %0.4s, %1.8h, %2.8h" : "+w"(c) : "w"(a), "w"(b));
    return c;
#else
    return vbfdotq_f32(c, vreinterpretq_bf16_f32(a), vreinterpretq_bf16_f32(b));
#endif
}

/* In place: 4 halves take the room of 2 of the floats already read. */
INLINE void store_weight_halves(float *row, int64_t i, vf x) { vf_store_bf16_n((uint16_t *)row + i, x, VL); }

/* Each word a half of both. */
INLINE vf pair_rows(vf even, vf odd) {
    uint16_t low[VL], high[VL];
    vf_store_bf16_n(low, even, VL);
    vf_store_bf16_n(high, odd, VL);
    return vf_pair_halves(low, high, VL);
}

/* Elements of the first, then of the second. */
INLINE vf join_rows(vf first, vf second) {
    return vreinterpretq_f32_u16(vcombine_u16(to_bf16(first), to_bf16(second)));
}

/* Zero in place of halves that are not finite. */
INLINE vf finite_halves(vf x) {
    const uint16x8_t words = vreinterpretq_u16_f32(x), exponent = vdupq_n_u16(0x7f80);
    return vreinterpretq_f32_u16(vbicq_u16(words, vceqq_u16(vandq_u16(words, exponent), exponent)));
}

#define KERNEL_NAME "bf16_neon"
#define KERNEL mfai_cpu_bf16_neon
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

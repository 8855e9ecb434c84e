/* The SIMD vocabulary on arm64. simd_scalar.h says what each word means. */
#include <arm_neon.h>

typedef float32x4_t vf;
enum { VL = 4, PART_WORDS = 32 };

INLINE vf vf_zero(void) { return vdupq_n_f32(0); }
INLINE vf vf_set1(float x) { return vdupq_n_f32(x); }
INLINE vf vf_load(const void *p) { return vld1q_f32(p); }
INLINE void vf_store(void *p, vf x) { vst1q_f32(p, x); }
INLINE vf vf_add(vf a, vf b) { return vaddq_f32(a, b); }
INLINE vf vf_sub(vf a, vf b) { return vsubq_f32(a, b); }
INLINE vf vf_mul(vf a, vf b) { return vmulq_f32(a, b); }
INLINE vf vf_div(vf a, vf b) { return vdivq_f32(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
INLINE vf vf_fused(vf a, vf b, vf c) { return vf_fma(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
INLINE vf vf_abs(vf x) { return vabsq_f32(x); }
INLINE vf vf_copysign(vf magnitude, vf sign) { return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude); }
INLINE float vf_hmax(vf x) { return vmaxvq_f32(x); }
INLINE float vf_hsum(vf x) { return vaddvq_f32(x); }

INLINE vf vf_select_less(vf a, vf b, vf x, vf y) { return vbslq_f32(vcltq_f32(a, b), x, y); }
INLINE vf vf_select_equal(vf a, vf b, vf x, vf y) { return vbslq_f32(vceqq_f32(a, b), x, y); }

INLINE uint32x4_t lanes_below(int64_t n) {
    static const uint32_t numbers[VL] = {0, 1, 2, 3};
    return vcltq_u32(vld1q_u32(numbers), vdupq_n_u32(n < 0 ? 0 : n > VL ? VL : (uint32_t)n));
}
INLINE vf vf_hide_outside(vf x, int64_t begin, int64_t end) {
    return vbslq_f32(vbicq_u32(lanes_below(end), lanes_below(begin)), x, vdupq_n_f32(-INFINITY));
}

INLINE vf vf_load_n(const void *p, int n) {
    if (n >= VL)
        return vld1q_f32(p);
    float some[VL] = {0};
    memcpy(some, p, (size_t)n * sizeof *some);
    return vld1q_f32(some);
}
INLINE void vf_store_n(void *p, vf x, int n) {
    float some[VL];
    vst1q_f32(some, x);
    memcpy(p, some, (size_t)(n < VL ? n : VL) * sizeof *some);
}

INLINE uint16x4_t load_halves(const void *p, int n) {
    uint16_t some[VL] = {0};
    memcpy(some, p, (size_t)(n < VL ? n : VL) * sizeof *some);
    return vld1_u16(some);
}
INLINE void store_halves(void *p, uint16x4_t x, int n) {
    uint16_t some[VL];
    vst1_u16(some, x);
    memcpy(p, some, (size_t)(n < VL ? n : VL) * sizeof *some);
}

INLINE vf vf_load_f16_n(const void *p, int n) { return vcvt_f32_f16(vreinterpret_f16_u16(load_halves(p, n))); }
INLINE void vf_store_f16_n(void *p, vf x, int n) { store_halves(p, vreinterpret_u16_f16(vcvt_f16_f32(x)), n); }
INLINE vf vf_load_bf16_n(const void *p, int n) { return vreinterpretq_f32_u32(vshll_n_u16(load_halves(p, n), 16)); }

/* To nearest even in integers; a NaN keeps its top bits and turns quiet. */
INLINE uint16x4_t to_bf16(vf x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}
INLINE void vf_store_bf16_n(void *p, vf x, int n) { store_halves(p, to_bf16(x), n); }

INLINE vf vf_load_halves_n(const void *p, int n) {
    uint16_t some[2 * VL] = {0};
    memcpy(some, p, (size_t)(n < 2 * VL ? n : 2 * VL) * sizeof *some);
    return vreinterpretq_f32_u16(vld1q_u16(some));
}

INLINE vf vf_pair_halves(const void *even, const void *odd, int n) {
    const uint32x4_t low = vmovl_u16(load_halves(even, n));
    return vreinterpretq_f32_u32(vorrq_u32(low, vshll_n_u16(load_halves(odd, n), 16)));
}

INLINE vf vf_load_bytes_n(const void *p, int n, uint32_t bits) {
    uint8_t some[8] = {0};
    memcpy(some, p, (size_t)(n < VL ? n : VL));
    const uint32x4_t bytes = vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(some))));
    return vreinterpretq_f32_u32(veorq_u32(bytes, vdupq_n_u32(bits)));
}
INLINE vf vf_load_signed_bytes(const void *p) {
    int8_t some[8] = {0};
    memcpy(some, p, VL);
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vld1_s8(some)))));
}
INLINE vf vf_load_nibbles_n(const void *p, int n, uint32_t bits) {
    static const int32_t right[VL] = {0, -4, -8, -12};
    uint16_t some = 0;
    memcpy(&some, p, (size_t)(n < VL ? (n + 1) / 2 : VL / 2));
    const uint32x4_t nibbles = vandq_u32(vshlq_u32(vdupq_n_u32(some), vld1q_s32(right)), vdupq_n_u32(15));
    return vreinterpretq_f32_u32(veorq_u32(nibbles, vdupq_n_u32(bits)));
}

INLINE vf vf_load_nibble_pairs(const void *p, uint32_t bits, vf zero, vf *high) {
    uint8_t some[8] = {0};
    memcpy(some, p, VL);
    const uint32x4_t bytes = vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(some)))), flip = vdupq_n_u32(bits);
    *high = vf_sub(vreinterpretq_f32_u32(veorq_u32(vshrq_n_u32(bytes, 4), flip)), zero);
    return vf_sub(vreinterpretq_f32_u32(veorq_u32(vandq_u32(bytes, vdupq_n_u32(15)), flip)), zero);
}

INLINE vf vf_exp2(vf x) {
    /* At -127 the exponent field below becomes 0, and so the result. vmaxq keeps a NaN. */
    x = vmaxq_f32(x, vdupq_n_f32(-127));
    const vf whole = vrndmq_f32(x), fraction = vsubq_f32(x, whole);
    vf y = vf_fma(vf_set1(EXP2_C5), fraction, vf_set1(EXP2_C4));
    y = vf_fma(y, fraction, vf_set1(EXP2_C3));
    y = vf_fma(y, fraction, vf_set1(EXP2_C2));
    y = vf_fma(y, fraction, vf_set1(EXP2_C1));
    y = vf_fma(y, fraction, vf_set1(1));
    const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(whole), vdupq_n_s32(127)), 23);
    return vmulq_f32(y, vreinterpretq_f32_s32(power));
}

INLINE vf vf_sum_each(const vf rows[VL]) {
    return vpaddq_f32(vpaddq_f32(rows[0], rows[1]), vpaddq_f32(rows[2], rows[3]));
}

INLINE void vf_transpose(vf rows[VL]) {
    const float32x4x2_t a = vtrnq_f32(rows[0], rows[1]), b = vtrnq_f32(rows[2], rows[3]);
    rows[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    rows[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    rows[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    rows[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

typedef uint32x4_t vw;

INLINE vw vw_set1(uint32_t x) { return vdupq_n_u32(x); }
INLINE vw vw_load(const uint32_t *p) { return vld1q_u32(p); }
INLINE vw vw_xor(vw a, vw b) { return veorq_u32(a, b); }
INLINE vw vw_multiply(vw x, uint32_t factor, vw *high) {
    const uint32x4_t first = vreinterpretq_u32_u64(vmull_n_u32(vget_low_u32(x), factor));
    const uint32x4_t second = vreinterpretq_u32_u64(vmull_n_u32(vget_high_u32(x), factor));
    *high = vuzp2q_u32(first, second);
    return vuzp1q_u32(first, second);
}
INLINE vf vf_drop(vw x, bool low, uint32_t threshold, float factor) {
    const uint32x4_t half = low ? vandq_u32(x, vdupq_n_u32(0xffff)) : vshrq_n_u32(x, 16);
    const uint32x4_t kept = vcgeq_u32(half, vdupq_n_u32(threshold));
    return vreinterpretq_f32_u32(vandq_u32(kept, vreinterpretq_u32_f32(vdupq_n_f32(factor))));
}

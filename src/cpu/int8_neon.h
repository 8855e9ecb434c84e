/* Products of codes on arm64. int8_scalar.h says what each word means. */
INLINE vw vw_zero(void) { return vdupq_n_u32(0); }

#if defined(INT8_USDOT)
INLINE vw vw_dot(vf a, vf b, vw sum) {
#if defined(__clang__) && __clang_major__ < 16 /* has the intrinsic only where the whole file is compiled for it */
    __asm__("usdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(a), "w"(b));
    return sum;
#else
    return vreinterpretq_u32_s32(
        vusdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_u8_f32(a), vreinterpretq_s8_f32(b)));
#endif
}
#else
/* Codes at even and odd places as halves: 255 * 128 fits into one. */
INLINE vw vw_dot(vf a, vf b, vw sum) {
    const uint16x8_t left = vreinterpretq_u16_f32(a);
    const int16x8_t right = vreinterpretq_s16_f32(b);
    const int16x8_t even =
        vmulq_s16(vreinterpretq_s16_u16(vandq_u16(left, vdupq_n_u16(0xff))), vshrq_n_s16(vshlq_n_s16(right, 8), 8));
    const int16x8_t odd = vmulq_s16(vreinterpretq_s16_u16(vshrq_n_u16(left, 8)), vshrq_n_s16(right, 8));
    return vreinterpretq_u32_s32(vpadalq_s16(vpadalq_s16(vreinterpretq_s32_u32(sum), even), odd));
}
#endif
INLINE vf vf_from_int(vw x) { return vcvtq_f32_s32(vreinterpretq_s32_u32(x)); }
INLINE int32_t vw_sum(vw x) { return vaddvq_s32(vreinterpretq_s32_u32(x)); }
INLINE vf vf_flip(vf x, uint32_t bits) {
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(x), vdupq_n_u32(bits)));
}

INLINE vf load_bytes_n(const void *p, int64_t n) {
    if (n >= 4 * VL)
        return vf_load(p);
    uint8_t some[4 * VL] = {0};
    memcpy(some, p, (size_t)n);
    return vf_load((const float *)(const void *)some);
}

INLINE vf load_nibbles_n(const void *p, int64_t n) {
    uint8_t some[2 * VL] = {0};
    memcpy(some, p, (size_t)(n < 4 * VL ? (n + 1) / 2 : 2 * VL));
    const uint16x8_t pairs = vmovl_u8(vld1_u8(some));
    return vreinterpretq_f32_u8(
        vandq_u8(vreinterpretq_u8_u16(vorrq_u16(pairs, vshlq_n_u16(pairs, 4))), vdupq_n_u8(15)));
}

INLINE vf split_nibbles(vf x, vf *odd) {
    const uint8x16_t bytes = vreinterpretq_u8_f32(x);
    *odd = vreinterpretq_f32_u8(vshrq_n_u8(bytes, 4));
    return vreinterpretq_f32_u8(vandq_u8(bytes, vdupq_n_u8(15)));
}

INLINE uint32x4_t widen_bytes(const char *p, int n) {
    uint8_t some[8] = {0};
    memcpy(some, p, (size_t)(n < VL ? n : VL));
    return vmovl_u16(vget_low_u16(vmovl_u8(vld1_u8(some))));
}

INLINE vf interleave_bytes(const char *const rows[4], int n) {
    const uint32x4_t low = vorrq_u32(widen_bytes(rows[0], n), vshlq_n_u32(widen_bytes(rows[1], n), 8));
    const uint32x4_t high = vorrq_u32(widen_bytes(rows[2], n), vshlq_n_u32(widen_bytes(rows[3], n), 8));
    return vreinterpretq_f32_u32(vorrq_u32(low, vshlq_n_u32(high, 16)));
}

INLINE void store_signed_bytes(int8_t *to, vf x) {
    const int16x4_t halves = vmovn_s32(vcvtnq_s32_f32(x));
    const int8x8_t bytes = vmovn_s16(vcombine_s16(halves, halves));
    memcpy(to, &bytes, VL);
}
/* The low byte of a whole number does not depend on how its sign is read. */
INLINE void store_unsigned_bytes(uint8_t *to, vf x) { store_signed_bytes((int8_t *)to, x); }

INLINE vw vw_sum_each(const vw rows[VL]) {
    return vpaddq_u32(vpaddq_u32(rows[0], rows[1]), vpaddq_u32(rows[2], rows[3]));
}

INLINE void interleave_rows(const vf rows[4], vf words[4]) {
    const uint8x16x2_t first = vzipq_u8(vreinterpretq_u8_f32(rows[0]), vreinterpretq_u8_f32(rows[1]));
    const uint8x16x2_t last = vzipq_u8(vreinterpretq_u8_f32(rows[2]), vreinterpretq_u8_f32(rows[3]));
    for (int i = 0; i < 2; ++i) {
        const uint16x8x2_t both = vzipq_u16(vreinterpretq_u16_u8(first.val[i]), vreinterpretq_u16_u8(last.val[i]));
        words[2 * i] = vreinterpretq_f32_u16(both.val[0]);
        words[2 * i + 1] = vreinterpretq_f32_u16(both.val[1]);
    }
}
INLINE void order_columns(vw words[4]) { (void)words; }

INLINE vw zip_words(vw a, vw b, vw *second) {
    *second = vzip2q_u32(a, b);
    return vzip1q_u32(a, b);
}

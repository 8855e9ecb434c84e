/* The SIMD vocabulary on AVX2 with FMA and F16C. simd_scalar.h says what each word means. */
#include <immintrin.h>

typedef __m256 vf;
enum { VL = 8, PART_WORDS = 32 };

INLINE vf vf_zero(void) { return _mm256_setzero_ps(); }
INLINE vf vf_set1(float x) { return _mm256_set1_ps(x); }
INLINE vf vf_load(const void *p) { return _mm256_loadu_ps(p); }
INLINE void vf_store(void *p, vf x) { _mm256_storeu_ps(p, x); }
INLINE vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf vf_fused(vf a, vf b, vf c) { return vf_fma(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf vf_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
INLINE vf vf_copysign(vf magnitude, vf sign) {
    return _mm256_or_ps(magnitude, _mm256_and_ps(sign, _mm256_set1_ps(-0.0f)));
}

INLINE float vf_hmax(vf x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_shuffle_ps(y, y, 1)));
}
INLINE float vf_hsum(vf x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_shuffle_ps(y, y, 1)));
}

INLINE vf vf_select_less(vf a, vf b, vf x, vf y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
INLINE vf vf_select_equal(vf a, vf b, vf x, vf y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }

INLINE __m256i lane_numbers(void) { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
INLINE __m256i lanes_below(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 0 ? 0 : n > VL ? VL : (int)n), lane_numbers());
}

INLINE vf vf_hide_outside(vf x, int64_t begin, int64_t end) {
    __m256i seen = _mm256_andnot_si256(lanes_below(begin), lanes_below(end));
    return _mm256_blendv_ps(_mm256_set1_ps(-INFINITY), x, _mm256_castsi256_ps(seen));
}

INLINE vf vf_load_n(const void *p, int n) { return _mm256_maskload_ps(p, lanes_below(n)); }
INLINE void vf_store_n(void *p, vf x, int n) { _mm256_maskstore_ps(p, lanes_below(n), x); }

INLINE __m128i load_halves(const void *p, int n) {
    if (n >= VL)
        return _mm_loadu_si128(p);
    uint16_t some[VL] = {0};
    memcpy(some, p, (size_t)n * sizeof *some);
    return _mm_loadu_si128((const void *)some);
}
INLINE void store_halves(void *p, __m128i x, int n) {
    if (n >= VL) {
        _mm_storeu_si128(p, x);
        return;
    }
    uint16_t some[VL];
    _mm_storeu_si128((void *)some, x);
    memcpy(p, some, (size_t)n * sizeof *some);
}

INLINE vf vf_load_f16_n(const void *p, int n) { return _mm256_cvtph_ps(load_halves(p, n)); }
INLINE void vf_store_f16_n(void *p, vf x, int n) { store_halves(p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT), n); }
INLINE vf vf_load_bf16_n(const void *p, int n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(p, n)), 16));
}

/* To nearest even in integers; a NaN keeps its top bits and turns quiet. */
INLINE void vf_store_bf16_n(void *p, vf x, int n) {
    __m256i bits = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    rounded = _mm256_castps_si256(
        _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
    rounded = _mm256_srli_epi32(rounded, 16);
    store_halves(p, _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)), n);
}

INLINE vf vf_load_bytes_n(const void *p, int n, uint32_t bits) {
    uint8_t some[VL] = {0};
    if (n < VL)
        memcpy(some, p, (size_t)n);
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(n < VL ? (const void *)some : p));
    return _mm256_castsi256_ps(_mm256_xor_si256(bytes, _mm256_set1_epi32((int)bits)));
}
INLINE vf vf_load_signed_bytes(const void *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p))); }
INLINE vf vf_load_nibbles_n(const void *p, int n, uint32_t bits) {
    uint32_t some = 0;
    memcpy(&some, p, n < VL ? (size_t)(n + 1) / 2 : sizeof some);
    const __m256i nibbles = _mm256_and_si256(
        _mm256_srlv_epi32(_mm256_set1_epi32((int)some), _mm256_slli_epi32(lane_numbers(), 2)), _mm256_set1_epi32(15));
    return _mm256_castsi256_ps(_mm256_xor_si256(nibbles, _mm256_set1_epi32((int)bits)));
}

INLINE vf vf_load_nibble_pairs(const void *p, uint32_t bits, vf zero, vf *high) {
    const __m256i bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)), flip = _mm256_set1_epi32((int)bits);
    const __m256i low = _mm256_and_si256(bytes, _mm256_set1_epi32(15));
    *high = vf_sub(_mm256_castsi256_ps(_mm256_xor_si256(_mm256_srli_epi32(bytes, 4), flip)), zero);
    return vf_sub(_mm256_castsi256_ps(_mm256_xor_si256(low, flip)), zero);
}

INLINE vf vf_exp2(vf x) {
    /* At -127 the exponent field below becomes 0, and so the result. The order of operands keeps a NaN. */
    x = _mm256_max_ps(_mm256_set1_ps(-127), x);
    const vf whole = _mm256_floor_ps(x), fraction = vf_sub(x, whole);
    vf y = vf_fma(vf_set1(EXP2_C5), fraction, vf_set1(EXP2_C4));
    y = vf_fma(y, fraction, vf_set1(EXP2_C3));
    y = vf_fma(y, fraction, vf_set1(EXP2_C2));
    y = vf_fma(y, fraction, vf_set1(EXP2_C1));
    y = vf_fma(y, fraction, vf_set1(1));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
    return vf_mul(y, _mm256_castsi256_ps(power));
}

/* Each step adds halves of two vectors into one, where a transposition would keep them apart. */
INLINE vf vf_sum_each(const vf rows[VL]) {
    const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(rows[0], rows[1]), _mm256_hadd_ps(rows[2], rows[3]));
    const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(rows[4], rows[5]), _mm256_hadd_ps(rows[6], rows[7]));
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}

INLINE void vf_transpose(vf rows[VL]) {
    __m256 a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        rows[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
}

typedef __m256i vw;

INLINE vw vw_set1(uint32_t x) { return _mm256_set1_epi32((int)x); }
INLINE vw vw_load(const uint32_t *p) { return _mm256_loadu_si256((const void *)p); }
INLINE vw vw_xor(vw a, vw b) { return _mm256_xor_si256(a, b); }
INLINE vw vw_multiply(vw x, uint32_t factor, vw *high) {
    const __m256i even = _mm256_mul_epu32(x, vw_set1(factor));
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), vw_set1(factor));
    *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
INLINE vf vf_drop(vw x, bool low, uint32_t threshold, float factor) {
    const __m256i half = low ? _mm256_and_si256(x, vw_set1(0xffff)) : _mm256_srli_epi32(x, 16);
    const __m256i dropped = _mm256_cmpgt_epi32(vw_set1(threshold), half);
    return _mm256_andnot_ps(_mm256_castsi256_ps(dropped), vf_set1(factor));
}

/* The SIMD vocabulary on AVX-512 (F, BW, DQ, VL). simd_scalar.h says what each word means. */
#include <immintrin.h>

typedef __m512 vf;
enum { VL = 16, PART_WORDS = 32 };

INLINE vf vf_zero(void) { return _mm512_setzero_ps(); }
INLINE vf vf_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf vf_load(const void *p) { return _mm512_loadu_ps(p); }
INLINE void vf_store(void *p, vf x) { _mm512_storeu_ps(p, x); }
INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf vf_fused(vf a, vf b, vf c) { return vf_fma(a, b, c); }
INLINE vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf vf_abs(vf x) { return _mm512_abs_ps(x); }
INLINE vf vf_copysign(vf magnitude, vf sign) {
    return _mm512_or_ps(magnitude, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
}
INLINE float vf_hmax(vf x) { return _mm512_reduce_max_ps(x); }
INLINE float vf_hsum(vf x) { return _mm512_reduce_add_ps(x); }

INLINE vf vf_select_less(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
INLINE vf vf_select_equal(vf a, vf b, vf x, vf y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), y, x);
}

INLINE __mmask16 lanes_below(int64_t n) { return n >= VL ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

INLINE vf vf_hide_outside(vf x, int64_t begin, int64_t end) {
    __mmask16 seen = (__mmask16)(lanes_below(end) & ~lanes_below(begin));
    return _mm512_mask_blend_ps(seen, _mm512_set1_ps(-INFINITY), x);
}

INLINE vf vf_load_n(const void *p, int n) { return _mm512_maskz_loadu_ps(lanes_below(n), p); }
INLINE void vf_store_n(void *p, vf x, int n) { _mm512_mask_storeu_ps(p, lanes_below(n), x); }

INLINE __m256i load_halves(const void *p, int n) {
    return n >= VL ? _mm256_loadu_si256(p) : _mm256_maskz_loadu_epi16(lanes_below(n), p);
}
INLINE void store_halves(void *p, __m256i x, int n) {
    if (n >= VL)
        _mm256_storeu_si256(p, x);
    else
        _mm256_mask_storeu_epi16(p, lanes_below(n), x);
}

INLINE vf vf_load_f16_n(const void *p, int n) { return _mm512_cvtph_ps(load_halves(p, n)); }
INLINE void vf_store_f16_n(void *p, vf x, int n) { store_halves(p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT), n); }
INLINE vf vf_load_bf16_n(const void *p, int n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(p, n)), 16));
}

/* To nearest even in integers: vcvtneps2bf16 would flush subnormals. A NaN keeps its top bits and turns quiet. */
INLINE void vf_store_bf16_n(void *p, vf x, int n) {
    __m512i bits = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    store_halves(p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)), n);
}

INLINE vf vf_load_bytes_n(const void *p, int n, uint32_t bits) {
    const __m128i bytes = n >= VL ? _mm_loadu_si128(p) : _mm_maskz_loadu_epi8(lanes_below(n), p);
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32((int)bits)));
}
INLINE vf vf_load_signed_bytes(const void *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p))); }

/* Of each nibble its float. Permutations look at the lowest four bits of a lane, and so make floats of nibbles in one
   step, whatever lies above them. */
INLINE vf nibble_floats(uint32_t bits) {
    const __m512i numbers = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return _mm512_castsi512_ps(_mm512_xor_si512(numbers, _mm512_set1_epi32((int)bits)));
}
INLINE vf vf_load_nibbles_n(const void *p, int n, uint32_t bits) {
    uint64_t some = 0;
    memcpy(&some, p, n < VL ? (size_t)(n + 1) / 2 : sizeof some);
    /* Each byte at the bottom of two lanes, and zeros above it. */
    const __m512i bytes = _mm512_shuffle_epi8(_mm512_set1_epi64((int64_t)some),
                                              _mm512_set_epi32(-249, -249, -250, -250, -251, -251, -252, -252, -253,
                                                               -253, -254, -254, -255, -255, -256, -256));
    const __m512i nibbles = _mm512_srlv_epi32(bytes, _mm512_set1_epi64((int64_t)4 << 32));
    return _mm512_permutexvar_ps(nibbles, nibble_floats(bits));
}

INLINE vf vf_load_nibble_pairs(const void *p, uint32_t bits, vf zero, vf *high) {
    const vf table = vf_sub(nibble_floats(bits), zero);
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
    *high = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table);
    return _mm512_permutexvar_ps(bytes, table);
}

INLINE vf vf_load_halves_n(const void *p, int n) {
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(n >= 2 * VL ? 0xffffffffu : (1u << n) - 1, p));
}

/* Word i is element i of `even` in the low half and of `odd` in the high half. */
INLINE vf vf_pair_halves(const void *even, const void *odd, int n) {
    __m512i low = _mm512_cvtepu16_epi32(load_halves(even, n));
    __m512i high = _mm512_cvtepu16_epi32(load_halves(odd, n));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

INLINE vf vf_exp2(vf x) {
    vf fraction = _mm512_reduce_ps(x, 0x01 | 0x08); /* x - floor(x); 0 for an infinity */
    vf y = vf_fma(vf_set1(EXP2_C5), fraction, vf_set1(EXP2_C4));
    y = vf_fma(y, fraction, vf_set1(EXP2_C3));
    y = vf_fma(y, fraction, vf_set1(EXP2_C2));
    y = vf_fma(y, fraction, vf_set1(EXP2_C1));
    y = vf_fma(y, fraction, vf_set1(1));
    return _mm512_scalef_ps(y, x); /* times 2^floor(x) */
}

/* Each step adds halves of two vectors into one, where a transposition would keep them apart. */
INLINE vf vf_sum_each(const vf rows[VL]) {
    __m512 a[8], b[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]),
                             _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512d x = _mm512_castps_pd(a[2 * i]), y = _mm512_castps_pd(a[2 * i + 1]);
        b[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
    }
    const __m512 c = _mm512_add_ps(_mm512_shuffle_f32x4(b[0], b[1], 0x88), _mm512_shuffle_f32x4(b[0], b[1], 0xdd));
    const __m512 d = _mm512_add_ps(_mm512_shuffle_f32x4(b[2], b[3], 0x88), _mm512_shuffle_f32x4(b[2], b[3], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
}

INLINE void vf_transpose(vf rows[VL]) {
    __m512 a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a[i]), _mm512_castps_pd(a[i + 2])));
        b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a[i]), _mm512_castps_pd(a[i + 2])));
        b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a[i + 1]), _mm512_castps_pd(a[i + 3])));
        b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a[i + 1]), _mm512_castps_pd(a[i + 3])));
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 8)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            a[i + j] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0x88);
            a[i + j + 4] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0xdd);
        }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
        rows[j] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0x88);
        rows[j + 8] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0xdd);
    }
}

typedef __m512i vw;

INLINE vw vw_set1(uint32_t x) { return _mm512_set1_epi32((int)x); }
INLINE vw vw_load(const uint32_t *p) { return _mm512_loadu_si512(p); }
INLINE vw vw_xor(vw a, vw b) { return _mm512_xor_si512(a, b); }
INLINE vw vw_multiply(vw x, uint32_t factor, vw *high) {
    const __m512i even = _mm512_mul_epu32(x, vw_set1(factor));
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), vw_set1(factor));
    *high = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
    return _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}
INLINE vf vf_drop(vw x, bool low, uint32_t threshold, float factor) {
    const __m512i half = low ? _mm512_and_si512(x, vw_set1(0xffff)) : _mm512_srli_epi32(x, 16);
    return _mm512_maskz_mov_ps(_mm512_cmpge_epi32_mask(half, vw_set1(threshold)), vf_set1(factor));
}

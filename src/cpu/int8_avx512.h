/* Products of codes on AVX-512 with VNNI. int8_scalar.h says what each word means. */
INLINE vw vw_zero(void) { return _mm512_setzero_si512(); }
/* As an instruction: gcc 12 moves the sums of its intrinsic from register to register and runs out of them. */
INLINE vw vw_dot(vf a, vf b, vw sum) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}
INLINE vf vf_from_int(vw x) { return _mm512_cvtepi32_ps(x); }
INLINE int32_t vw_sum(vw x) { return _mm512_reduce_add_epi32(x); }
INLINE vf vf_flip(vf x, uint32_t bits) {
    return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(x), vw_set1(bits)));
}

INLINE __mmask64 bytes_below(int64_t n) { return n >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << n) - 1; }

INLINE vf load_bytes_n(const void *p, int64_t n) {
    return n >= 4 * VL ? vf_load(p) : _mm512_castsi512_ps(_mm512_maskz_loadu_epi8(bytes_below(n), p));
}

INLINE vf load_nibbles_n(const void *p, int64_t n) {
    const __m256i packed =
        n >= 4 * VL ? _mm256_loadu_si256(p) : _mm256_maskz_loadu_epi8((__mmask32)bytes_below((n + 1) / 2), p);
    const __m512i pairs = _mm512_cvtepu8_epi16(packed);
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_or_si512(pairs, _mm512_slli_epi16(pairs, 4)), _mm512_set1_epi8(15)));
}

INLINE __m512i widen_bytes(const char *p, int n) {
    return _mm512_cvtepu8_epi32(n >= VL ? _mm_loadu_si128((const void *)p)
                                        : _mm_maskz_loadu_epi8((__mmask16)bytes_below(n), p));
}

INLINE vf interleave_bytes(const char *const rows[4], int n) {
    const __m512i low = _mm512_or_si512(widen_bytes(rows[0], n), _mm512_slli_epi32(widen_bytes(rows[1], n), 8));
    const __m512i high = _mm512_or_si512(widen_bytes(rows[2], n), _mm512_slli_epi32(widen_bytes(rows[3], n), 8));
    return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

INLINE void store_unsigned_bytes(uint8_t *to, vf x) {
    _mm_storeu_si128((void *)to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
INLINE void store_signed_bytes(int8_t *to, vf x) {
    _mm_storeu_si128((void *)to, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}

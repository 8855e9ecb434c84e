/* Products of codes on AVX2. int8_scalar.h says what each word means. */
INLINE vw vw_zero(void) { return _mm256_setzero_si256(); }

/* Codes at even and odd places as halves, whose products nothing saturates. */
INLINE vw vw_dot(vf a, vf b, vw sum) {
    const __m256i left = _mm256_castps_si256(a), right = _mm256_castps_si256(b);
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(left, _mm256_set1_epi16(0xff)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(right, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(left, 8), _mm256_srai_epi16(right, 8));
    return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
INLINE vf vf_from_int(vw x) { return _mm256_cvtepi32_ps(x); }

INLINE int32_t vw_sum(vw x) {
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}

INLINE vf vf_flip(vf x, uint32_t bits) {
    return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_castps_si256(x), vw_set1(bits)));
}

INLINE vf load_bytes_n(const void *p, int64_t n) {
    if (n >= 4 * VL)
        return vf_load(p);
    uint8_t some[4 * VL] = {0};
    memcpy(some, p, (size_t)n);
    return vf_load(some);
}

INLINE vf load_nibbles_n(const void *p, int64_t n) {
    uint8_t some[2 * VL] = {0};
    if (n < 4 * VL)
        memcpy(some, p, (size_t)(n + 1) / 2);
    const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128(n < 4 * VL ? (const void *)some : p));
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), _mm256_set1_epi8(15)));
}

INLINE vf split_nibbles(vf x, vf *odd) {
    const __m256i bytes = _mm256_castps_si256(x), low = _mm256_set1_epi8(15);
    *odd = _mm256_castsi256_ps(_mm256_and_si256(_mm256_srli_epi16(bytes, 4), low));
    return _mm256_castsi256_ps(_mm256_and_si256(bytes, low));
}

INLINE __m256i widen_bytes(const char *p, int n) {
    uint8_t some[VL] = {0};
    if (n < VL)
        memcpy(some, p, (size_t)n);
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(n < VL ? (const void *)some : (const void *)p));
}

INLINE vf interleave_bytes(const char *const rows[4], int n) {
    const __m256i low = _mm256_or_si256(widen_bytes(rows[0], n), _mm256_slli_epi32(widen_bytes(rows[1], n), 8));
    const __m256i high = _mm256_or_si256(widen_bytes(rows[2], n), _mm256_slli_epi32(widen_bytes(rows[3], n), 8));
    return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_slli_epi32(high, 16)));
}

INLINE __m128i round_to_halves(vf x) {
    const __m256i whole = _mm256_cvtps_epi32(x);
    return _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
}
INLINE void store_unsigned_bytes(uint8_t *to, vf x) {
    const __m128i halves = round_to_halves(x);
    _mm_storel_epi64((void *)to, _mm_packus_epi16(halves, halves));
}
INLINE void store_signed_bytes(int8_t *to, vf x) {
    const __m128i halves = round_to_halves(x);
    _mm_storel_epi64((void *)to, _mm_packs_epi16(halves, halves));
}

INLINE vw vw_sum_each(const vw rows[VL]) {
    const __m256i a = _mm256_hadd_epi32(_mm256_hadd_epi32(rows[0], rows[1]), _mm256_hadd_epi32(rows[2], rows[3]));
    const __m256i b = _mm256_hadd_epi32(_mm256_hadd_epi32(rows[4], rows[5]), _mm256_hadd_epi32(rows[6], rows[7]));
    return _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

/* In each half of a vector: words[v] has columns 16 * half + 4 * v to 4 * v + 3. */
INLINE void interleave_rows(const vf rows[4], vf words[4]) {
    __m256i row[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
        row[r] = _mm256_castps_si256(rows[r]);
    const __m256i low = _mm256_unpacklo_epi8(row[0], row[1]), high = _mm256_unpackhi_epi8(row[0], row[1]);
    const __m256i other_low = _mm256_unpacklo_epi8(row[2], row[3]), other_high = _mm256_unpackhi_epi8(row[2], row[3]);
    words[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, other_low));
    words[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, other_low));
    words[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi16(high, other_high));
    words[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi16(high, other_high));
}
INLINE void order_columns(vw words[4]) {
    const __m256i a = words[0], b = words[2];
    words[0] = _mm256_permute2x128_si256(a, words[1], 0x20);
    words[2] = _mm256_permute2x128_si256(a, words[1], 0x31);
    words[1] = _mm256_permute2x128_si256(b, words[3], 0x20);
    words[3] = _mm256_permute2x128_si256(b, words[3], 0x31);
}

INLINE vw zip_words(vw a, vw b, vw *second) {
    const __m256i low = _mm256_unpacklo_epi32(a, b), high = _mm256_unpackhi_epi32(a, b);
    *second = _mm256_permute2x128_si256(low, high, 0x31);
    return _mm256_permute2x128_si256(low, high, 0x20);
}

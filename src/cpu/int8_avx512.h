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

INLINE vf split_nibbles(vf x, vf *odd) {
    const __m512i bytes = _mm512_castps_si512(x), low = _mm512_set1_epi8(15);
    *odd = _mm512_castsi512_ps(_mm512_and_si512(_mm512_srli_epi16(bytes, 4), low));
    return _mm512_castsi512_ps(_mm512_and_si512(bytes, low));
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

/* Lane i is the sum of the lower half of rows[i]; *upper: of the upper ones. */
#define HALF_GROUPS
INLINE vw vw_sum_halves(const vw rows[VL], vw *upper) {
    __m512i a[8], b[4];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
        a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]),
                                _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]));
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
        b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                                _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    const __m512i c = _mm512_add_epi32(_mm512_shuffle_i32x4(b[0], b[1], 0x88), _mm512_shuffle_i32x4(b[0], b[1], 0xdd));
    const __m512i d = _mm512_add_epi32(_mm512_shuffle_i32x4(b[2], b[3], 0x88), _mm512_shuffle_i32x4(b[2], b[3], 0xdd));
    *upper = _mm512_shuffle_i32x4(c, d, 0xdd);
    return _mm512_shuffle_i32x4(c, d, 0x88);
}
INLINE vf vf_halves(float lower, float upper) {
    return _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(lower), _mm512_set1_ps(upper));
}

/* As vf_sum_each. */
INLINE vw vw_sum_each(const vw rows[VL]) {
    vw upper;
    const vw lower = vw_sum_halves(rows, &upper);
    return _mm512_add_epi32(lower, upper);
}

/* In each quarter of a vector: words[v] has columns 16 * quarter + 4 * v to 4 * v + 3. */
INLINE void interleave_rows(const vf rows[4], vf words[4]) {
    __m512i row[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r)
        row[r] = _mm512_castps_si512(rows[r]);
    const __m512i low = _mm512_unpacklo_epi8(row[0], row[1]), high = _mm512_unpackhi_epi8(row[0], row[1]);
    const __m512i other_low = _mm512_unpacklo_epi8(row[2], row[3]), other_high = _mm512_unpackhi_epi8(row[2], row[3]);
    words[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, other_low));
    words[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, other_low));
    words[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(high, other_high));
    words[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(high, other_high));
}
INLINE void order_columns(vw words[4]) {
    const __m512i a = _mm512_shuffle_i32x4(words[0], words[1], 0x44),
                  b = _mm512_shuffle_i32x4(words[0], words[1], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(words[2], words[3], 0x44),
                  d = _mm512_shuffle_i32x4(words[2], words[3], 0xee);
    words[0] = _mm512_shuffle_i32x4(a, c, 0x88);
    words[1] = _mm512_shuffle_i32x4(a, c, 0xdd);
    words[2] = _mm512_shuffle_i32x4(b, d, 0x88);
    words[3] = _mm512_shuffle_i32x4(b, d, 0xdd);
}

INLINE vw zip_words(vw a, vw b, vw *second) {
    const __m512i places = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    *second = _mm512_permutex2var_epi32(a, _mm512_add_epi32(places, _mm512_set1_epi32(8)), b);
    return _mm512_permutex2var_epi32(a, places, b);
}

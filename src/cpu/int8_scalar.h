/*
 * What products of codes need beside the vectors, in plain C, and its meaning. Words hold four codes of a byte each.
 *   vw_dot(a, b, sum)         sum + the products of the four codes of each word: unsigned ones in a, signed ones in b;
 *                             exact, in 32 bits
 *   vw_zero, vf_from_int      of signed words
 *   vw_sum                    of all words, signed
 *   vf_flip(x, bits)          x with these bits of each word turned over
 *   load_bytes_n              the first n of 4 * VL bytes, zero elsewhere, no other memory touched
 *   load_nibbles_n            likewise n codes of 4 bits, each in a byte of its own; behind the last there may be anything
 *   split_nibbles(x, odd)     the first of the two codes in each byte; *odd: the second
 *   interleave_bytes(rows, n) word i holds byte i of each of four rows, the first in its lowest bits, for the first n
 *   interleave_rows           likewise of 4 * VL bytes of each row, in an order of columns that order_columns puts right
 *   zip_words(a, b, second)   words of a and b in turn; *second: those of the upper halves
 *   vw_sum_each               lane i is the sum of rows[i]
 *   store_unsigned_bytes      VL floats, 0 to 255, rounded to nearest even; store_signed_bytes: -128 to 127
 */
INLINE vw vw_zero(void) { return vw_set1(0); }

INLINE vw vw_dot(vf a, vf b, vw sum) {
    for (int i = 0; i < VL; ++i) {
        const uint32_t left = mfai_f32_to_bits(a.lane[i]), right = mfai_f32_to_bits(b.lane[i]);
        for (int bit = 0; bit < 32; bit += 8)
            sum.lane[i] += (uint32_t)((int32_t)(left >> bit & 255) * (int8_t)(right >> bit));
    }
    return sum;
}

INLINE vf vf_from_int(vw x) {
    vf result;
    for (int i = 0; i < VL; ++i)
        result.lane[i] = (float)(int32_t)x.lane[i];
    return result;
}

INLINE int32_t vw_sum(vw x) { return (int32_t)(x.lane[0] + x.lane[1] + x.lane[2] + x.lane[3]); }

INLINE vf vf_flip(vf x, uint32_t bits) {
    uint32_t words[VL];
    memcpy(words, &x, sizeof words);
    for (int i = 0; i < VL; ++i)
        words[i] ^= bits;
    return vf_load(words);
}

INLINE vf load_bytes_n(const void *p, int64_t n) {
    vf x = vf_zero();
    memcpy(&x, p, (size_t)(n < 4 * VL ? n : 4 * VL));
    return x;
}

INLINE vf load_nibbles_n(const void *p, int64_t n) {
    uint8_t packed[2 * VL] = {0}, codes[4 * VL];
    memcpy(packed, p, (size_t)(n < 4 * VL ? (n + 1) / 2 : 2 * VL));
    for (int i = 0; i < 4 * VL; ++i)
        codes[i] = i % 2 == 0 ? packed[i / 2] & 15 : packed[i / 2] >> 4;
    return vf_load(codes);
}

INLINE vf split_nibbles(vf x, vf *odd) {
    uint8_t packed[4 * VL], first[4 * VL], second[4 * VL];
    memcpy(packed, &x, sizeof packed);
    for (int i = 0; i < 4 * VL; ++i) {
        first[i] = packed[i] & 15;
        second[i] = packed[i] >> 4;
    }
    *odd = vf_load(second);
    return vf_load(first);
}

INLINE vf interleave_bytes(const char *const rows[4], int n) {
    uint8_t codes[4 * VL] = {0};
    for (int i = 0; i < n && i < VL; ++i)
        for (int r = 0; r < 4; ++r)
            codes[4 * i + r] = (uint8_t)rows[r][i];
    return vf_load(codes);
}

/* At this size floats have no fractions. */
INLINE int32_t round_lane(float x) { return (int32_t)(mfai_f32_to_bits(x + 0x1.8p23f) - mfai_f32_to_bits(0x1.8p23f)); }

INLINE void store_unsigned_bytes(uint8_t *to, vf x) {
    for (int i = 0; i < VL; ++i)
        to[i] = (uint8_t)round_lane(x.lane[i]);
}
INLINE void store_signed_bytes(int8_t *to, vf x) {
    for (int i = 0; i < VL; ++i)
        to[i] = (int8_t)round_lane(x.lane[i]);
}

INLINE vw vw_sum_each(const vw rows[VL]) {
    vw sums;
    for (int i = 0; i < VL; ++i)
        sums.lane[i] = (uint32_t)vw_sum(rows[i]);
    return sums;
}

/* Apart, as its arrays are large and stacks may be small. */
__attribute__((noinline)) static void interleave_rows(const vf rows[4], vf words[4]) {
    uint8_t from[4][4 * VL], to[4 * VL][4];
    memcpy(from, rows, sizeof from);
    for (int i = 0; i < 4 * VL; ++i)
        for (int r = 0; r < 4; ++r)
            to[i][r] = from[r][i];
    memcpy(words, to, sizeof to);
}
INLINE void order_columns(vw words[4]) { (void)words; }

INLINE vw zip_words(vw a, vw b, vw *second) {
    vw both[2];
    for (int i = 0; i < VL; ++i) {
        both[2 * i / VL].lane[2 * i % VL] = a.lane[i];
        both[2 * i / VL].lane[2 * i % VL + 1] = b.lane[i];
    }
    *second = both[1];
    return both[0];
}

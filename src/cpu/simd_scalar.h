/*
 * The SIMD vocabulary in plain C, and its meaning. Every ISA's header defines the same words:
 *   vf                      VL floats; also carries VL words of other kinds, such as pairs of 16-bit floats
 *   PART_WORDS              in one sum of the backward pass before it joins the others: shorter sums round less, and
 *                           must be shorter where products round on their own
 *   vf_load/store           unaligned; ..._n: the first n lanes, zero elsewhere, no other memory touched
 *   vf_load_f16_n, ...      with conversion; stores round to nearest even
 *   vf_load_bytes_n(p, n, bits)   the first n bytes, and zero in other lanes, each as the float of the bits byte ^ bits
 *   vf_load_nibbles_n       likewise of four bits, the low ones of a byte first
 *   vf_load_nibble_pairs(p, bits, zero, &high)   likewise of VL bytes, less zero: the low ones, and apart the high ones
 *   vf_load_signed_bytes    VL of them as their numbers
 *   vf_fma(a, b, c)         a * b + c, in one rounding or two
 *   vf_fused(a, b, c)       likewise, in one, or as good as one
 *   vf_max(a, b)            a > b ? a : b, so a NaN in b stays
 *   vf_select_less(a, b, x, y), vf_select_equal   x where a < b (a == b), else y
 *   vf_hide_outside(x, begin, end)   -inf in the lanes outside begin .. end - 1
 *   vf_load_halves_n        the first n 16-bit elements as they are, zero elsewhere; only where words are pairs
 *   vf_pair_halves          likewise; interleaves two rows of 16-bit elements into words
 *   vf_exp2                 within 2 ulp; 0 for -inf, NaN for NaN; for x up to 127
 *   vf_sum_each             lane i is the sum of rows[i]
 *   vf_transpose            of VL vectors, in place
 *   vw                      VL words of 32 bits, unsigned
 *   vw_multiply             products by a word: returns their low words and sets *high
 *   vf_drop(x, low, threshold, factor)   0 where the low (or high) half of the word is below the threshold, else factor
 */
enum { VL = 4, PART_WORDS = 16 };
typedef struct {
    float lane[VL];
} vf;

#define EACH_LANE for (int i = 0; i < VL; ++i)
#define LANES(expression)                        \
    do {                                         \
        vf result;                               \
        EACH_LANE result.lane[i] = (expression); \
        return result;                           \
    } while (0)

INLINE vf vf_zero(void) { LANES(0.0f); }
INLINE vf vf_set1(float x) { LANES(x); }
INLINE vf vf_load(const void *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE void vf_store(void *p, vf x) { memcpy(p, &x, sizeof x); }
INLINE vf vf_add(vf a, vf b) { LANES(a.lane[i] + b.lane[i]); }
INLINE vf vf_sub(vf a, vf b) { LANES(a.lane[i] - b.lane[i]); }
INLINE vf vf_mul(vf a, vf b) { LANES(a.lane[i] * b.lane[i]); }
INLINE vf vf_div(vf a, vf b) { LANES(a.lane[i] / b.lane[i]); }
INLINE vf vf_fma(vf a, vf b, vf c) { LANES(a.lane[i] * b.lane[i] + c.lane[i]); }
INLINE vf vf_fused(vf a, vf b, vf c) { LANES((float)((double)a.lane[i] * b.lane[i] + c.lane[i])); }
INLINE vf vf_max(vf a, vf b) { LANES(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
INLINE vf vf_abs(vf x) { LANES(fabsf(x.lane[i])); }
INLINE vf vf_copysign(vf magnitude, vf sign) { LANES(copysignf(magnitude.lane[i], sign.lane[i])); }
INLINE vf vf_select_less(vf a, vf b, vf x, vf y) { LANES(a.lane[i] < b.lane[i] ? x.lane[i] : y.lane[i]); }
INLINE vf vf_select_equal(vf a, vf b, vf x, vf y) { LANES(a.lane[i] == b.lane[i] ? x.lane[i] : y.lane[i]); }
INLINE vf vf_hide_outside(vf x, int64_t begin, int64_t end) { LANES(i >= begin && i < end ? x.lane[i] : -INFINITY); }

INLINE float vf_hmax(vf x) {
    float most = x.lane[0];
    EACH_LANE most = most > x.lane[i] ? most : x.lane[i];
    return most;
}
INLINE float vf_hsum(vf x) {
    float sum = 0;
    EACH_LANE sum += x.lane[i];
    return sum;
}

INLINE vf vf_load_n(const void *p, int n) {
    vf x = vf_zero();
    memcpy(&x, p, (size_t)(n < VL ? n : VL) * sizeof(float));
    return x;
}
INLINE void vf_store_n(void *p, vf x, int n) { memcpy(p, &x, (size_t)(n < VL ? n : VL) * sizeof(float)); }

INLINE vf vf_load_f16_n(const void *p, int n) {
    uint16_t half[VL] = {0};
    memcpy(half, p, (size_t)(n < VL ? n : VL) * sizeof *half);
    LANES(mfai_f16_to_f32(half[i]));
}
INLINE vf vf_load_bf16_n(const void *p, int n) {
    uint16_t half[VL] = {0};
    memcpy(half, p, (size_t)(n < VL ? n : VL) * sizeof *half);
    LANES(mfai_bf16_to_f32(half[i]));
}
INLINE void vf_store_f16_n(void *p, vf x, int n) {
    uint16_t half[VL];
    EACH_LANE half[i] = mfai_f32_to_f16(x.lane[i]);
    memcpy(p, half, (size_t)(n < VL ? n : VL) * sizeof *half);
}
INLINE void vf_store_bf16_n(void *p, vf x, int n) {
    uint16_t half[VL];
    EACH_LANE half[i] = mfai_f32_to_bf16(x.lane[i]);
    memcpy(p, half, (size_t)(n < VL ? n : VL) * sizeof *half);
}

INLINE vf vf_load_bytes_n(const void *p, int n, uint32_t bits) {
    uint8_t byte[VL] = {0};
    memcpy(byte, p, (size_t)(n < VL ? n : VL));
    LANES(mfai_bits_to_f32(byte[i] ^ bits));
}
INLINE vf vf_load_signed_bytes(const void *p) {
    int8_t byte[VL];
    memcpy(byte, p, sizeof byte);
    LANES((float)byte[i]);
}
INLINE vf vf_load_nibbles_n(const void *p, int n, uint32_t bits) {
    uint8_t byte[VL / 2] = {0};
    memcpy(byte, p, (size_t)(n < VL ? (n + 1) / 2 : VL / 2));
    LANES(mfai_bits_to_f32((byte[i / 2] >> i % 2 * 4 & 15) ^ bits));
}

INLINE vf vf_load_nibble_pairs(const void *p, uint32_t bits, vf zero, vf *high) {
    uint8_t byte[VL];
    memcpy(byte, p, sizeof byte);
    EACH_LANE high->lane[i] = mfai_bits_to_f32((uint32_t)(byte[i] >> 4) ^ bits) - zero.lane[i];
    LANES(mfai_bits_to_f32((byte[i] & 15u) ^ bits) - zero.lane[i]);
}

INLINE float exp2_lane(float x) {
    if (!(x > -150.0f))
        return x != x ? x : 0.0f;
    if (x >= 128.0f)
        return INFINITY;
    float whole = floorf(x), f = x - whole;
    float y = ((((EXP2_C5 * f + EXP2_C4) * f + EXP2_C3) * f + EXP2_C2) * f + EXP2_C1) * f + 1.0f;
    /* Two steps, so that results below the normal range are rounded once instead of being lost. */
    int exponent = (int)whole, half = exponent / 2;
    uint32_t first = (uint32_t)(half + 127) << 23, second = (uint32_t)(exponent - half + 127) << 23;
    float a, b;
    memcpy(&a, &first, sizeof a);
    memcpy(&b, &second, sizeof b);
    return y * a * b;
}
INLINE vf vf_exp2(vf x) { LANES(exp2_lane(x.lane[i])); }

INLINE vf vf_sum_each(const vf rows[VL]) { LANES(vf_hsum(rows[i])); }

INLINE void vf_transpose(vf rows[VL]) {
    for (int i = 0; i < VL; ++i)
        for (int j = 0; j < i; ++j) {
            float swapped = rows[i].lane[j];
            rows[i].lane[j] = rows[j].lane[i];
            rows[j].lane[i] = swapped;
        }
}

typedef struct {
    uint32_t lane[VL];
} vw;

INLINE vw vw_set1(uint32_t x) {
    vw result;
    EACH_LANE result.lane[i] = x;
    return result;
}
INLINE vw vw_load(const uint32_t *p) {
    vw x;
    memcpy(&x, p, sizeof x);
    return x;
}
INLINE vw vw_xor(vw a, vw b) {
    EACH_LANE a.lane[i] ^= b.lane[i];
    return a;
}
INLINE vw vw_multiply(vw x, uint32_t factor, vw *high) {
    vw low;
    EACH_LANE {
        const uint64_t product = (uint64_t)x.lane[i] * factor;
        low.lane[i] = (uint32_t)product;
        high->lane[i] = (uint32_t)(product >> 32);
    }
    return low;
}
INLINE vf vf_drop(vw x, bool low, uint32_t threshold, float factor) {
    LANES((low ? x.lane[i] & 0xffffu : x.lane[i] >> 16) < threshold ? 0 : factor);
}

#undef LANES
#undef EACH_LANE

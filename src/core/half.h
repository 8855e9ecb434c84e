/* 16-bit floats, one at a time, for what the vector conversions do not cover. Rounding is to nearest even. */
#ifndef MFA_CORE_HALF_H
#define MFA_CORE_HALF_H

#include "core/arithmetic.h"

#include <stdint.h>
#include <string.h>

static inline float mfai_bits_to_f32(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t mfai_f32_to_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float mfai_bf16_to_f32(uint16_t half) { return mfai_bits_to_f32((uint32_t)half << 16); }

static inline uint16_t mfai_f32_to_bf16(float x) {
    uint32_t bits = mfai_f32_to_bits(x);
    if (x != x)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float mfai_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) /* infinity, NaN */
        return mfai_bits_to_f32(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
    if (rest >= 0x400)
        return mfai_bits_to_f32(sign | ((rest << 13) + (112u << 23)));
    float magnitude = (float)rest * 0x1p-24f; /* zero, subnormals */
    return mfai_bits_to_f32(sign | mfai_f32_to_bits(magnitude));
}

static inline uint16_t mfai_f32_to_f16(float x) {
    uint32_t bits = mfai_f32_to_bits(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
    if (rest >= 0x477ff000) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (rest >= 0x38800000)
        return (uint16_t)(sign | ((rest - (112u << 23) + 0xfff + (rest >> 13 & 1)) >> 13));
    /* Adding 1/2 leaves the subnormal's bits, rounded, at the bottom of the mantissa. */
    uint32_t shifted = mfai_f32_to_bits(mfai_bits_to_f32(rest) + 0.5f);
    return (uint16_t)(sign | (shifted - 0x3f000000));
}

#endif

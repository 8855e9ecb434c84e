/* Every 16-bit float there and back, and rounding at every boundary between two of them. */
#include "core/half.h"

#include <math.h>

#include "check.h"

static float f16_value(uint16_t half) {
    int exponent = half >> 10 & 31, mantissa = half & 0x3ff;
    float magnitude = exponent == 31  ? (mantissa ? NAN : INFINITY)
                      : exponent == 0 ? ldexpf((float)mantissa, -24)
                                      : ldexpf((float)(mantissa + 1024), exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

int main(void) {
    for (uint32_t i = 0; i < 0x10000; ++i) {
        const uint16_t half = (uint16_t)i;
        const float value = f16_value(half), wide = mfai_bf16_to_f32(half);
        if (isnan(value)) {
            CHECK(isnan(mfai_f16_to_f32(half)));
            CHECK(isnan(f16_value(mfai_f32_to_f16(mfai_f16_to_f32(half)))));
        } else {
            CHECK(mfai_f16_to_f32(half) == value && signbit(mfai_f16_to_f32(half)) == signbit(value));
            CHECK(mfai_f32_to_f16(value) == half);
        }
        CHECK(isnan(wide) ? isnan(mfai_bf16_to_f32(mfai_f32_to_bf16(wide))) : mfai_f32_to_bf16(wide) == half);
    }
    for (uint16_t half = 0; half < 0x7bff; ++half) {
        const float low = f16_value(half), high = f16_value(half + 1), middle = (low + high) / 2;
        CHECK(mfai_f32_to_f16(middle) == (half & 1 ? half + 1 : half));
        CHECK(mfai_f32_to_f16(nextafterf(middle, 0)) == half);
        CHECK(mfai_f32_to_f16(nextafterf(middle, INFINITY)) == half + 1);
    }
    CHECK(mfai_f32_to_f16(65520.0f) == 0x7c00 && mfai_f32_to_f16(65519.996f) == 0x7bff);
    CHECK(mfai_f32_to_f16(1e30f) == 0x7c00 && mfai_f32_to_f16(-INFINITY) == 0xfc00);
    CHECK(mfai_f32_to_bf16(3.4e38f) == 0x7f80 && mfai_f32_to_bf16(1.00390625f) == 0x3f80);
    return check_report();
}

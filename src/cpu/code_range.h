/* The codes that values may become, and what a range of values comes to. */
#ifndef MFA_CPU_CODE_RANGE_H
#define MFA_CPU_CODE_RANGE_H

#include <math.h>

#include "core/problem.h"
#include "core/half.h"

typedef struct mfai_cpu_code_range {
    bool is_symmetric, is_half; /* half: scales are */
    float lowest, highest;      /* codes */
    float steps;                /* the scale is the range of values by as many */
} mfai_cpu_code_range_t;

static inline mfai_cpu_code_range_t mfai_cpu_code_range(const mfai_view_t *codes,
                                                        const mfai_quantization_t *quantization) {
    const bool is_symmetric = !quantization->zero_points.present;
    const float highest = (float)mfai_format_highest(codes->format);
    const float lowest = is_symmetric ? -highest : (float)mfai_format_lowest(codes->format);
    return (mfai_cpu_code_range_t){.is_symmetric = is_symmetric,
                                   .is_half = quantization->scales.format == MFAI_FORMAT_FP16,
                                   .lowest = lowest,
                                   .highest = highest,
                                   .steps = is_symmetric ? highest : highest - lowest};
}

/* The scale of values from -low to high, neither negative. One that its precision does not have comes back as it is. */
static inline float mfai_cpu_scale(const mfai_cpu_code_range_t *range, float low, float high) {
    float scale = range->is_symmetric ? fmaxf(low, high) : high + low;
    if (scale == 0)
        return 1;
    scale /= range->steps;
    if (range->is_half) {
        const float rounded = mfai_f16_to_f32(mfai_f32_to_f16(scale));
        return rounded > 65504 ? scale : fmaxf(rounded, 0x1p-14f);
    }
    return fmaxf(scale, 0x1p-126f);
}

static inline float mfai_cpu_most_scale(const mfai_cpu_code_range_t *range) {
    return range->is_half ? 65504 : 0x1.fffffep127f;
}

static inline float mfai_cpu_zero_point(const mfai_cpu_code_range_t *range, float low, float scale) {
    if (range->is_symmetric)
        return 0;
    return fminf(fmaxf(rintf(range->lowest + low / scale), range->lowest), range->highest);
}

/* One scale or zero point, to and from memory. */
static inline float mfai_cpu_factor_load(const char *element, int32_t format) {
    int32_t whole;
    uint16_t half;
    float factor;
    switch (format) {
    case MFAI_FORMAT_FP16:
        memcpy(&half, element, sizeof half);
        return mfai_f16_to_f32(half);
    case MFAI_FORMAT_INT8:
        return (float)*(const int8_t *)element;
    case MFAI_FORMAT_UINT8:
        return (float)*(const uint8_t *)element;
    case MFAI_FORMAT_INT32:
        memcpy(&whole, element, sizeof whole);
        return (float)whole;
    default: /* MFAI_FORMAT_FP32 */
        memcpy(&factor, element, sizeof factor);
        return factor;
    }
}

static inline void mfai_cpu_factor_store(char *element, int32_t format, float factor) {
    const int32_t whole = (int32_t)(format == MFAI_FORMAT_FP32 || format == MFAI_FORMAT_FP16 ? 0 : factor);
    const uint16_t half = mfai_f32_to_f16(factor);
    switch (format) {
    case MFAI_FORMAT_FP16:
        memcpy(element, &half, sizeof half);
        return;
    case MFAI_FORMAT_INT8:
    case MFAI_FORMAT_UINT8:
        *element = (char)whole;
        return;
    case MFAI_FORMAT_INT32:
        memcpy(element, &whole, sizeof whole);
        return;
    default: /* MFAI_FORMAT_FP32 */
        memcpy(element, &factor, sizeof factor);
    }
}

#endif

/* How an element is stored. The first formats are the public MFA_PRECISION_...; integers differ in their sign, too. */
#ifndef MFA_CORE_FORMAT_H
#define MFA_CORE_FORMAT_H

#include "mfa.h"

enum {
    MFAI_FORMAT_FP16 = MFA_PRECISION_FP16,
    MFAI_FORMAT_BF16 = MFA_PRECISION_BF16,
    MFAI_FORMAT_FP32 = MFA_PRECISION_FP32,
    MFAI_FORMAT_INT8 = MFA_PRECISION_INT8,
    MFAI_FORMAT_INT4 = MFA_PRECISION_INT4,
    MFAI_FORMAT_BOOL = MFA_PRECISION_BOOL,
    MFAI_FORMAT_INT32 = MFA_PRECISION_INT32,
    MFAI_FORMAT_UINT8 = MFA_PRECISION_UINT8,
    MFAI_FORMAT_UINT4 = MFA_PRECISION_UINT4,
    MFAI_FORMAT_UINT32,
    MFAI_FORMATS
};

typedef struct mfai_format {
    const char *name;
    unsigned bits;
    bool is_floating, is_signed;
} mfai_format_t;

/* Here, so that what a constant format has is a constant in the kernels. */
static const mfai_format_t mfai_formats[MFAI_FORMATS] = {
    [MFAI_FORMAT_FP16] = {"FP16", 16, true, true},    [MFAI_FORMAT_BF16] = {"BF16", 16, true, true},
    [MFAI_FORMAT_FP32] = {"FP32", 32, true, true},    [MFAI_FORMAT_INT8] = {"INT8", 8, false, true},
    [MFAI_FORMAT_INT4] = {"INT4", 4, false, true},    [MFAI_FORMAT_BOOL] = {"BOOL", 8, false, false},
    [MFAI_FORMAT_INT32] = {"INT32", 32, false, true}, [MFAI_FORMAT_UINT8] = {"UINT8", 8, false, false},
    [MFAI_FORMAT_UINT4] = {"UINT4", 4, false, false}, [MFAI_FORMAT_UINT32] = {"UINT32", 32, false, false},
};

/* Bytes of `count` elements side by side; the last byte may be partly used. */
static inline int64_t mfai_format_bytes(int32_t format, int64_t count) {
    const int64_t bits = mfai_formats[format].bits;
    return bits % 8 == 0 ? count * (bits / 8) : count / 2 + count % 2;
}

/* Of codes. */
static inline int32_t mfai_format_lowest(int32_t format) {
    return mfai_formats[format].is_signed ? -(1 << (mfai_formats[format].bits - 1)) : 0;
}
static inline int32_t mfai_format_highest(int32_t format) {
    return mfai_format_lowest(format) + (1 << mfai_formats[format].bits) - 1;
}

/* A set of formats is a sum of these. */
#define MFAI_FORMAT_BIT(format) (1u << (format))
#define MFAI_CODES                                                                                                \
    (MFAI_FORMAT_BIT(MFAI_FORMAT_INT8) | MFAI_FORMAT_BIT(MFAI_FORMAT_UINT8) | MFAI_FORMAT_BIT(MFAI_FORMAT_INT4) | \
     MFAI_FORMAT_BIT(MFAI_FORMAT_UINT4))
#define MFAI_FLOATING \
    (MFAI_FORMAT_BIT(MFAI_FORMAT_FP16) | MFAI_FORMAT_BIT(MFAI_FORMAT_BF16) | MFAI_FORMAT_BIT(MFAI_FORMAT_FP32))

#endif

/* Tensors of one batch and random numbers, packed (heads, rows, columns), in any floating precision. */
#ifndef TENSORS_H
#define TENSORS_H

#include "core/half.h"
#include "mfa.h"
#include "naive.h"

static inline void store(int32_t precision, void *to, int64_t at, float x) {
    if (precision == MFA_PRECISION_FP32)
        ((float *)to)[at] = x;
    else
        ((uint16_t *)to)[at] = precision == MFA_PRECISION_FP16 ? mfai_f32_to_f16(x) : mfai_f32_to_bf16(x);
}

static inline float load(int32_t precision, const void *from, int64_t at) {
    if (precision == MFA_PRECISION_FP32)
        return ((const float *)from)[at];
    const uint16_t half = ((const uint16_t *)from)[at];
    return precision == MFA_PRECISION_FP16 ? mfai_f16_to_f32(half) : mfai_bf16_to_f32(half);
}

static inline float at3(const mfa_tensor_t *tensor, int64_t head, int64_t row, int64_t column) {
    return load(tensor->precision, tensor->data, (head * tensor->shape[2] + row) * tensor->shape[3] + column);
}

static inline mfa_tensor_t random_tensor(int32_t precision, int64_t heads, int64_t rows, int64_t columns) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.precision = precision;
    const int64_t shape[4] = {1, heads, rows, columns},
                  stride[4] = {heads * rows * columns, rows * columns, columns, 1};
    for (int axis = 0; axis < 4; ++axis) {
        tensor.shape[axis] = shape[axis];
        tensor.stride[axis] = stride[axis];
    }
    const int64_t count = heads * rows * columns;
    /* No more than it needs, so that a sanitizer sees whoever writes past the end. */
    tensor.data = malloc((size_t)(count > 0 ? count : 1) * (precision == MFA_PRECISION_FP32 ? 4 : 2));
    for (int64_t i = 0; i < count; ++i)
        store(precision, tensor.data, i, random_float());
    return tensor;
}

#endif

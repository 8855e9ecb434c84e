/* Reading rows of any precision and stride into the form that the kernels multiply, and writing results back. */

INLINE void gather_halves(const void *source, int64_t stride, int64_t count, uint16_t *row) {
    const uint16_t *halves = source;
    for (int64_t i = 0; i < count; ++i)
        row[i] = halves[i * stride];
}

INLINE vf load_converted(const void *source, int32_t precision, int64_t at, int n) {
    switch (precision) {
    case MFA_PRECISION_FP16:
        return vf_load_f16_n((const uint16_t *)source + at, n);
    case MFA_PRECISION_BF16:
        return vf_load_bf16_n((const uint16_t *)source + at, n);
    default:
        return n >= VL ? vf_load((const float *)source + at) : vf_load_n((const float *)source + at, n);
    }
}

/* Writes `count` elements as float32, padded with zeros to a multiple of VL. */
INLINE void load_row_f32(const void *source, int32_t precision, int64_t stride, int64_t count, float *row) {
    if (stride == 1 || count == 1) {
        for (int64_t i = 0; i < count; i += VL)
            vf_store(row + i, load_converted(source, precision, i, (int)(count - i < VL ? count - i : VL)));
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        if (precision == MFA_PRECISION_FP32)
            row[i] = ((const float *)source)[i * stride];
        else {
            uint16_t half = ((const uint16_t *)source)[i * stride];
            row[i] = precision == MFA_PRECISION_FP16 ? mfai_f16_to_f32(half) : mfai_bf16_to_f32(half);
        }
    }
    for (int64_t i = count; i % VL != 0; ++i)
        row[i] = 0;
}

static void store_row(const float *row, int64_t count, float factor, void *target, int32_t precision, int64_t stride) {
    const vf scale = vf_set1(factor);
    for (int64_t i = 0; i < count; i += VL) {
        int n = (int)(count - i < VL ? count - i : VL);
        vf x = vf_mul(vf_load(row + i), scale);
        if (stride == 1) {
            if (precision == MFA_PRECISION_FP16)
                vf_store_f16_n((uint16_t *)target + i, x, n);
            else if (precision == MFA_PRECISION_BF16)
                vf_store_bf16_n((uint16_t *)target + i, x, n);
            else
                vf_store_n((float *)target + i, x, n);
            continue;
        }
        float lanes[VL];
        vf_store(lanes, x);
        for (int j = 0; j < n; ++j) {
            int64_t at = (i + j) * stride;
            if (precision == MFA_PRECISION_FP32)
                ((float *)target)[at] = lanes[j];
            else
                ((uint16_t *)target)[at] =
                    precision == MFA_PRECISION_FP16 ? mfai_f32_to_f16(lanes[j]) : mfai_f32_to_bf16(lanes[j]);
        }
    }
}

static char *view_row(const mfai_view_t *view, int64_t b, int64_t h, int64_t row) {
    int64_t element = b * view->stride[0] + h * view->stride[1] + row * view->stride[2];
    return view->data + element * mfai_precision_size(view->precision);
}

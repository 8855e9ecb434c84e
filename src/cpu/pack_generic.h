/* Reading rows of any format and stride, and writing results back. */

/* Elements at .. at + n - 1 of a contiguous row as float32, zero in the other lanes. */
INLINE vf load_converted(const void *source, const int32_t format, int64_t at, int n) {
    switch (format) {
    case MFAI_FORMAT_FP16:
        return vf_load_f16_n((const uint16_t *)source + at, n);
    case MFAI_FORMAT_BF16:
        return vf_load_bf16_n((const uint16_t *)source + at, n);
    default: /* MFAI_FORMAT_FP32 */
        return n >= VL ? vf_load((const float *)source + at) : vf_load_n((const float *)source + at, n);
    }
}

INLINE void store_converted(void *target, const int32_t format, int64_t at, vf x, int n) {
    switch (format) {
    case MFAI_FORMAT_FP16:
        vf_store_f16_n((uint16_t *)target + at, x, n);
        return;
    case MFAI_FORMAT_BF16:
        vf_store_bf16_n((uint16_t *)target + at, x, n);
        return;
    default:
        if (n >= VL)
            vf_store((float *)target + at, x);
        else
            vf_store_n((float *)target + at, x, n);
    }
}

#if WORD_DEPTH == 1
/* Zero in place of lanes that are not finite. */
INLINE vf vf_finite(vf x) { return vf_select_equal(vf_mul(x, vf_zero()), vf_zero(), x, vf_zero()); }
#endif

/* Calls `call` with the format as a constant, so that loops over elements do not branch on it. A format that kernels
   read has its case here and in load_converted. */
#define WITH_FORMAT(format, call) \
    switch (format) {             \
    case MFAI_FORMAT_FP16:        \
        call(MFAI_FORMAT_FP16);   \
        break;                    \
    case MFAI_FORMAT_BF16:        \
        call(MFAI_FORMAT_BF16);   \
        break;                    \
    case MFAI_FORMAT_FP32:        \
        call(MFAI_FORMAT_FP32);   \
    }

INLINE void store_contiguous_row(const float *row, int64_t count, vf factor, void *target, const int32_t format) {
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        store_converted(target, format, i, vf_mul(vf_load(row + i), factor), VL);
    if (i < count)
        store_converted(target, format, i, vf_mul(vf_load(row + i), factor), (int)(count - i));
}

/* Writes row * factor; `row` is padded to whole vectors. */
static void store_row(const float *row, int64_t count, float factor, char *target, int32_t format, int64_t stride) {
    const vf factors = vf_set1(factor);
    if (stride == 1 || count == 1) {
#define STORE(format) store_contiguous_row(row, count, factors, target, format)
        WITH_FORMAT(format, STORE)
#undef STORE
        return;
    }
    const int64_t size = mfai_format_bytes(format, 1);
    for (int64_t i = 0; i < count; i += VL) {
        char lanes[VL * sizeof(float)];
#define STORE(format) store_contiguous_row(row + i, VL, factors, lanes, format)
        WITH_FORMAT(format, STORE)
#undef STORE
        for (int64_t j = i; j < count && j < i + VL; ++j)
            memcpy(target + j * stride * size, lanes + (j - i) * size, (size_t)size);
    }
}

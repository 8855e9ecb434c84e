/* What masks and ALiBi add to the scores of one row: -inf hides a key. */

enum { BIAS_ANY_VISIBLE = 1, BIAS_ANY_NONZERO = 2 };

/* Exactly -inf hides, whatever else is added. */
INLINE float add_mask(float bias, float mask) { return mask == -INFINITY ? mask : bias + mask; }

static void add_mask_row(const mfai_view_t *mask, const char *source, int64_t count, float *bias) {
    const int64_t stride = mask->stride[3];
    switch (mask->format) {
    case MFAI_FORMAT_BOOL:
        if (stride == 1)
            for (int64_t j = 0; j < count; ++j)
                bias[j] = source[j] ? bias[j] : -INFINITY;
        else
            for (int64_t j = 0; j < count; ++j)
                bias[j] = source[j * stride] ? bias[j] : -INFINITY;
        return;
    case MFAI_FORMAT_FP32:
        if (stride == 1)
            for (int64_t j = 0; j < count; ++j)
                bias[j] = add_mask(bias[j], ((const float *)source)[j]);
        else
            for (int64_t j = 0; j < count; ++j)
                bias[j] = add_mask(bias[j], ((const float *)source)[j * stride]);
        return;
    default:
        for (int64_t j = 0; j < count; ++j) {
            uint16_t half = ((const uint16_t *)source)[j * stride];
            bias[j] =
                add_mask(bias[j], mask->format == MFAI_FORMAT_FP16 ? mfai_f16_to_f32(half) : mfai_bf16_to_f32(half));
        }
    }
}

static const char *mask_row(const mfai_view_t *mask, int64_t b, int64_t h, int64_t row, int64_t key) {
    int64_t element = b * mask->stride[0] + h * mask->stride[1] + row * mask->stride[2] + key * mask->stride[3];
    return mask->data + element * mfai_view_element(mask);
}

/* Fills bias[0 .. count) for the keys from `key` on and returns BIAS_ANY_... bits about them. */
static unsigned fill_bias_row(const mfai_problem_t *p, int64_t b, int64_t h, int64_t row, int64_t key, int64_t count,
                              float *bias) {
    if (p->alibi_slopes.present) {
        const mfai_view_t *slopes = &p->alibi_slopes;
        float slope = ((const float *)slopes->data)[b * slopes->stride[0] + h * slopes->stride[1]];
        for (int64_t j = 0; j < count; ++j)
            bias[j] = mfa_rule_alibi(slope, row, p->offset, key + j);
    } else {
        memset(bias, 0, (size_t)count * sizeof *bias);
    }
    if (p->additive_mask.present)
        add_mask_row(&p->additive_mask, mask_row(&p->additive_mask, b, h, row, key), count, bias);
    if (p->bool_mask.present)
        add_mask_row(&p->bool_mask, mask_row(&p->bool_mask, b, h, row, key), count, bias);
    int visible = 0, nonzero = 0;
    for (int64_t j = 0; j < count; ++j) {
        visible |= bias[j] != -INFINITY;
        nonzero |= bias[j] != 0;
    }
    return (visible ? BIAS_ANY_VISIBLE : 0) | (nonzero ? BIAS_ANY_NONZERO : 0);
}

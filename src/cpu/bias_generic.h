/* What masks, blocks and ALiBi add to the scores of one row: -inf hides a key. */

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

static void hide(float *bias, int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
        bias[j] = -INFINITY;
}

/* Hides those of the keys that lie in blocks which do not count. */
static void hide_blocks(const mfai_walk_t *walk, int64_t head, int64_t row, mfa_span keys, float *bias) {
    mfai_walk_t alone = *walk;
    alone.heads = mfa_span_of(head, head + 1);
    const mfa_span rows = mfa_span_of(row, row + 1);
    mfa_span left = keys;
    for (;;) {
        const mfa_span run = mfai_walk_next(&alone, rows, left, keys.end - keys.begin);
        if (mfa_span_is_empty(run))
            break;
        hide(bias, left.begin - keys.begin, run.begin - keys.begin);
        left.begin = run.end;
    }
    hide(bias, left.begin - keys.begin, keys.end - keys.begin);
}

/* Fills bias[0], bias[1] and so on for the keys, which bounds let the row see, and returns BIAS_ANY_... bits about
   them. */
static unsigned fill_bias_row(const mfai_walk_t *walk, int64_t h, int64_t row, mfa_span keys, float *bias) {
    const mfai_problem_t *p = walk->problem;
    const int64_t b = walk->batch, key = keys.begin, count = keys.end - keys.begin;
    if (p->alibi_slopes.present) {
        const mfai_view_t *slopes = &p->alibi_slopes;
        float slope = ((const float *)slopes->data)[b * slopes->stride[0] + h * slopes->stride[1]];
        for (int64_t j = 0; j < count; ++j)
            bias[j] = mfa_rule_alibi(slope, row, walk->extent.offset, key + j);
    } else {
        memset(bias, 0, (size_t)count * sizeof *bias);
    }
    if (p->additive_mask.present)
        add_mask_row(&p->additive_mask, mask_row(&p->additive_mask, b, h, row, key), count, bias);
    if (p->bool_mask.present)
        add_mask_row(&p->bool_mask, mask_row(&p->bool_mask, b, h, row, key), count, bias);
    if (p->features & MFAI_BLOCKS)
        hide_blocks(walk, h, row, keys, bias);
    int visible = 0, nonzero = 0;
    for (int64_t j = 0; j < count; ++j) {
        visible |= bias[j] != -INFINITY;
        nonzero |= bias[j] != 0;
    }
    return (visible ? BIAS_ANY_VISIBLE : 0) | (nonzero ? BIAS_ANY_NONZERO : 0);
}

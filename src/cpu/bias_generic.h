/* What masks, blocks and ALiBi add to the scores of one row: -inf hides a key. */

enum {
    BIAS_ANY_VISIBLE = 1,
    BIAS_ANY_NONZERO = 2
}; /* without the latter, scores are as they would be without biases */

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

/* Hides what the tile of a partial block hides from the row; the keys lie in the block. */
static void hide_by_tile(const mfai_problem_t *p, int32_t tile, int64_t row, mfa_span keys, float *bias) {
    if (tile >= 0)
        add_mask_row(&p->masks, mask_row(&p->masks, tile, 0, row % p->block_rows, keys.begin % p->block_keys),
                     keys.end - keys.begin, bias);
}

/* Hides those of the keys that lie in blocks which do not count, and what masks hide in those that are not full. */
static void hide_by_blocks(const mfai_walk_t *walk, int64_t head, int64_t row, mfa_span keys, float *bias) {
    const mfai_problem_t *p = walk->problem;
    const mfai_block_line_t line = mfai_block_line(p, walk->batch, head, row / p->block_rows);
    const mfa_span blocks = mfa_span_tiles(keys, p->block_keys);
    for (int64_t block = blocks.begin, end; block < blocks.end; block = end) {
        const mfai_block_kind_t kind = mfai_block_kind(&line, block);
        for (end = block + 1; end < blocks.end && mfai_block_kind(&line, end) == kind;)
            ++end;
        const mfa_span run = mfa_span_cut(keys, mfa_span_of(block * p->block_keys, end * p->block_keys));
        float *here = bias + (run.begin - keys.begin);
        if (kind == MFAI_BLOCK_HIDDEN)
            hide(here, 0, run.end - run.begin);
        if (kind != MFAI_BLOCK_PARTIAL)
            continue;
        if (p->bool_mask.present)
            add_mask_row(&p->bool_mask, mask_row(&p->bool_mask, walk->batch, head, row, run.begin), run.end - run.begin,
                         here);
        for (int64_t i = block; i < end && line.tiles != NULL; ++i) {
            const mfa_span some = mfa_span_cut(run, mfa_span_of(i * p->block_keys, (i + 1) * p->block_keys));
            hide_by_tile(p, mfai_block_tile(&line, i), row, some, bias + (some.begin - keys.begin));
        }
    }
}

/* Whether nothing hides or changes a score of the row's, for the keys, as can be told without looking at each. */
static bool is_plain_row(const mfai_walk_t *walk, int64_t h, int64_t row, mfa_span keys) {
    const mfai_problem_t *p = walk->problem;
    if (p->features & MFAI_BIASES)
        return false;
    if (p->features & MFAI_BLOCKS) {
        mfai_block_line_t line = mfai_block_line(p, walk->batch, h, row / p->block_rows);
        if (mfai_blocks_are_full(&line, mfa_span_tiles(keys, p->block_keys)))
            return true;
        if (line.tiles != NULL || !p->bool_mask.present)
            return false;
        line.is_masked = false;
        if (!mfai_blocks_are_full(&line, mfa_span_tiles(keys, p->block_keys)))
            return false;
    }
    const char *mask = mask_row(&p->bool_mask, walk->batch, h, row, keys.begin);
    return p->bool_mask.stride[3] == 1 && memchr(mask, 0, (size_t)(keys.end - keys.begin)) == NULL;
}

enum { SMALL_BLOCK_KEYS = 8 }; /* whose runs are too short to be looked for */

/* As fill_bias_row, of blocks alone, some of which are hidden. */
static unsigned fill_block_row(const mfai_block_line_t *line, int64_t block_keys, mfa_span keys, float *bias) {
    static const float biases[] = {-INFINITY, 0}; /* no branch that nobody could foresee */
    bool any = false;
    int64_t block = keys.begin / block_keys;
    for (int64_t key = keys.begin; key < keys.end; ++block) {
        const bool shown = mfa_rule_bit(line->visible[block / MFA_BLOCK_BITS], block);
        const int64_t end = (block + 1) * block_keys;
        for (; key < keys.end && key < end; ++key)
            bias[key - keys.begin] = biases[shown];
        any |= shown;
    }
    return BIAS_ANY_NONZERO | (any ? BIAS_ANY_VISIBLE : 0);
}

/* As fill_bias_row, of a bool mask alone, some of which is false. */
static unsigned fill_hidden_row(const char *mask, int64_t count, float *bias) {
    char any = 0;
    for (int64_t j = 0; j < count; ++j) {
        bias[j] = mask[j] ? 0 : -INFINITY;
        any |= mask[j];
    }
    return BIAS_ANY_NONZERO | (any ? BIAS_ANY_VISIBLE : 0);
}

/* Fills bias[0], bias[1] and so on for the keys, which bounds let the row see, and returns BIAS_ANY_... bits about
   them. */
static unsigned fill_bias_row(const mfai_walk_t *walk, int64_t h, int64_t row, mfa_span keys, float *bias) {
    const mfai_problem_t *p = walk->problem;
    const int64_t b = walk->batch, key = keys.begin, count = keys.end - keys.begin;
    if (!(p->features & (MFAI_BIASES | MFAI_BLOCKS)) && p->bool_mask.stride[3] == 1)
        return fill_hidden_row(mask_row(&p->bool_mask, b, h, row, key), count, bias);
    if (!(p->features & MFAI_BIASES) && p->features & MFAI_BLOCKS && p->block_keys <= SMALL_BLOCK_KEYS) {
        const mfai_block_line_t line = mfai_block_line(p, b, h, row / p->block_rows);
        if (!line.is_masked)
            return fill_block_row(&line, p->block_keys, keys, bias);
    }
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
    if (p->features & MFAI_BLOCKS)
        hide_by_blocks(walk, h, row, keys, bias);
    else if (p->bool_mask.present)
        add_mask_row(&p->bool_mask, mask_row(&p->bool_mask, b, h, row, key), count, bias);
    int visible = 0, nonzero = 0;
    for (int64_t j = 0; j < count; ++j) {
        visible |= bias[j] != -INFINITY;
        nonzero |= bias[j] != 0;
    }
    return (visible ? BIAS_ANY_VISIBLE : 0) | (nonzero ? BIAS_ANY_NONZERO : 0);
}

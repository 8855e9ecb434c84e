/* Both products of the forward pass in integers. int8.h says where scales and zero points enter. */

static void fill_floats(float *to, int64_t count, float x) {
    for (int64_t i = 0; i < count; ++i)
        to[i] = x;
}

/* Of columns: factors, 1 where scales vary by row, and zero points, 0 where these do, with what turning bits over adds
   to the codes. Both have zeros behind. */
static void find_columns(const mfai_quantization_t *quantization, const mfai_cpu_int8_side_t *side, int32_t offset,
                         const mfai_walk_t *walk, int64_t kv_head, int64_t columns, float *factors, float *zeros) {
    const int64_t padded = mfai_round_up(columns, PANEL);
    memset(factors, 0, (size_t)padded * sizeof *factors);
    memset(zeros, 0, (size_t)padded * sizeof *zeros);
    fill_floats(factors, columns, 1);
    if (!side->row_scales && !side->remade)
        find_column_terms(quantization, &quantization->scales, walk->batch, kv_head, columns, factors);
    if (quantization->zero_points.present && !side->row_zeros && !side->remade)
        find_column_terms(quantization, &quantization->zero_points, walk->batch, kv_head, columns, zeros);
    for (int64_t c = 0; c < columns; ++c)
        zeros[c] += (float)offset;
}

/* What all rows of a task share; there are keys. */
static void begin_head(const mfai_cpu_forward_job_t *job, const mfai_walk_t *walk, int64_t kv_head, float *scratch) {
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_int8_t *at = &job->int8;
    find_columns(&p->key_quantization, &at->key, mfai_cpu_int8_key_offset(p->key.format), walk, kv_head, p->head_dim,
                 scratch + at->key_factors, scratch + at->key_zeros);
    find_columns(&p->value_quantization, &at->value, mfai_cpu_int8_value_offset(p->value.format), walk, kv_head,
                 p->value_dim, scratch + at->value_factors, scratch + at->value_zeros);
    if (at->value.row_zeros) /* of rows, then, which meet each column */
        fill_floats(scratch + at->value_zeros, mfai_round_up(p->value_dim, PANEL), 1);
    const mfai_view_t *mean = &p->key_quantization.mean;
    float *means = scratch + at->mean;
    memset(means, 0, (size_t)mfai_round_up(p->head_dim, VL) * sizeof *means);
    if (mean->present)
        load_terms(mean, mfai_view_row(mean, walk->batch, kv_head, 0), mean->stride[3], p->head_dim, means);
}

INLINE float load_query(const int32_t format, const char *source, int64_t columns, const float *means, float *row) {
    vf product = vf_zero();
    for (int64_t c = 0; c < columns; c += VL) {
        const vf x = load_converted(source, format, c, columns - c < VL ? (int)(columns - c) : VL);
        product = vf_fma(x, vf_load(means + c), product);
        vf_store(row + c, x);
    }
    return vf_hsum(product);
}

/* Rows of the chunk from `at` on. */
static void pack_some_queries(const mfai_cpu_forward_job_t *job, const mfai_walk_t *walk, mfa_span rows, int64_t at,
                              float *scratch) {
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_int8_t *in = &job->int8;
    const mfai_view_t *queries = &p->query;
    const int64_t columns = p->head_dim, words = job->shape.query_words, chunk_rows = job->shape.chunk_rows;
    const float *zeros = scratch + in->key_zeros, sign = job->negate_query ? -1.0f : 1.0f;
    float *row = scratch + in->row;
    for (int64_t r = rows.begin; r < rows.end; ++r, ++at) {
        const char *source = mfai_row_find(queries, walk->batch, row_head(walk, r), row_position(walk, r),
                                           (char *)(scratch + job->scratch.copy));
        int8_t *codes = (int8_t *)(scratch + job->scratch.query + at * words);
        float mean = 0;
#define LOAD(format) mean = load_query(format, source, columns, scratch + in->mean, row)
        WITH_FORMAT(queries->format, LOAD)
#undef LOAD
        const float scale = round_query(scratch + in->key_factors, columns, words * WORD_DEPTH, row, codes);
        scratch[in->query_scales + at] = sign * scale;
        scratch[in->query_means + at] = sign * mean;
        for (int64_t g = 0; g < in->key.groups; ++g) {
            int32_t sum = 0, start = 0;
            for (int64_t c = g * in->key.group_columns; c < (g + 1) * in->key.group_columns && c < columns; ++c) {
                sum += codes[c];
                start -= codes[c] * (int32_t)zeros[c];
            }
            scratch[in->query_sums + g * chunk_rows + at] = (float)sum;
            memcpy(&scratch[in->query_starts + g * chunk_rows + at], &start, sizeof start);
        }
    }
}

static void pack_query_rows(const mfai_cpu_forward_job_t *job, const mfai_walk_t *walk, mfa_span rows, float *scratch) {
    pack_some_queries(job, walk, rows, 0, scratch);
}

/* Terms of the block's rows in a group of columns, with zeros behind the last. */
static void find_block_terms(const block_t *block, const mfai_quantization_t *quantization,
                             const mfai_cpu_int8_side_t *side, const mfai_view_t *terms, int64_t group, float *to) {
    const int64_t count = key_count(block);
    find_row_terms(quantization, terms, block->walk->batch, block->kv_head, block->keys.begin, count,
                   term_group(quantization, side, group), to);
    memset(to + count, 0, (size_t)(mfai_round_up(count, PANEL) - count) * sizeof *to);
}

static void find_key_terms(const block_t *block) {
    const mfai_cpu_int8_t *at = &block->job->int8;
    const mfai_quantization_t *quantization = &block->job->problem->key_quantization;
    for (int64_t g = 0; g < at->key.groups; ++g) {
        float *scales = block->scratch + at->key_row_scales + g * block->stride;
        if (at->key.row_scales)
            find_block_terms(block, quantization, &at->key, &quantization->scales, g, scales);
        else
            fill_floats(scales, mfai_round_up(key_count(block), PANEL), 1);
        if (at->key.row_zeros)
            find_block_terms(block, quantization, &at->key, &quantization->zero_points, g,
                             block->scratch + at->key_row_zeros + g * block->stride);
    }
}

static int8_t *value_row_zeros(const block_t *block, int64_t group) {
    return (int8_t *)(block->scratch + block->job->int8.value_row_zeros) + group * block->stride;
}

static void find_value_terms(const block_t *block) {
    const mfai_cpu_int8_t *at = &block->job->int8;
    const mfai_quantization_t *quantization = &block->job->problem->value_quantization;
    const int64_t padded = mfai_round_up(key_count(block), PANEL);
    const int32_t offset = mfai_cpu_int8_value_offset(block->job->problem->value.format);
    for (int64_t g = 0; g < at->value.groups; ++g) {
        if (at->value.row_scales)
            find_block_terms(block, quantization, &at->value, &quantization->scales, g,
                             block->scratch + at->value_row_scales + g * block->stride);
        int8_t *zeros = value_row_zeros(block, g);
        if (at->value.has_zeros && !at->value.row_zeros)
            memset(zeros, 1, (size_t)padded);
        if (!at->value.row_zeros)
            continue;
        float *row_zeros = block->scores; /* free until scores are computed */
        find_block_terms(block, quantization, &at->value, &quantization->zero_points, g, row_zeros);
        for (int64_t j = 0; j < padded; ++j)
            zeros[j] = (int8_t)((int32_t)row_zeros[j] + offset);
    }
}

static mfai_rows_t find_code_rows(const block_t *block, const mfai_view_t *codes) {
    return mfai_rows_find(codes, block->walk->batch, block->kv_head, block->keys.begin, key_count(block), &block->room);
}

static void pack_block(const block_t *block) {
    const mfai_cpu_forward_job_t *job = block->job;
    const mfai_rows_t keys = find_code_rows(block, &job->problem->key);
    pack_keys(&keys, job->shape.query_words, block->key_panels);
    find_key_terms(block);
    const mfai_rows_t values = find_code_rows(block, &job->problem->value);
    pack_values(&values, (char *)(block->scratch + job->int8.bytes), block->value_panels);
    find_value_terms(block);
}

/* Where a group of columns begins and ends. */
static mfa_span group_columns(const mfai_cpu_int8_side_t *side, int64_t group, int64_t columns) {
    const int64_t end = (group + 1) * side->group_columns;
    return mfa_span_of(group * side->group_columns, end < columns ? end : columns);
}

static void multiply_scores(const block_t *block, mfa_span seen) {
    const mfai_cpu_forward_job_t *job = block->job;
    const mfai_cpu_int8_t *at = &job->int8;
    const float *scratch = block->scratch;
    const int64_t words = job->shape.query_words;
    for (int64_t panel = seen.begin / PANEL; panel * PANEL < seen.end; ++panel) {
        const bool full = panel_is_full(panel, key_count(block));
        for (int r = 0; r < block->rows; r += ROW_TILE)
            for (int64_t g = 0; g < at->key.groups; ++g) {
                const mfa_span columns = group_columns(&at->key, g, job->problem->head_dim);
                const int64_t first = columns.begin / WORD_DEPTH, row = block->at + r;
                const int64_t in_group = g * job->shape.chunk_rows + row, key = g * block->stride + panel * PANEL;
                const score_terms_t terms = {
                    .row_starts = (const int32_t *)(const void *)(scratch + at->query_starts + in_group),
                    .row_factors = scratch + at->query_scales + row,
                    .row_means = g == 0 ? scratch + at->query_means + row : NULL,
                    .row_sums = scratch + at->query_sums + in_group,
                    .key_scales = scratch + at->key_row_scales + key,
                    .key_zeros = at->key.row_zeros ? scratch + at->key_row_zeros + key : NULL,
                };
                multiply_queries(block->rows - r < ROW_TILE ? block->rows - r : ROW_TILE, full,
                                 (left_t){block->query + r * words + first, words},
                                 block->key_panels + panel * PANEL * words + first * (full ? PANEL : VL),
                                 words_of(columns.end - columns.begin), &terms,
                                 (sums_t){block->scores + r * block->stride + panel * PANEL, block->stride});
            }
    }
}

/* The columns of a group: out = out * correction + weights . values for the words of keys. */
static void multiply_group(const block_t *block, int64_t group, int first, int rows, mfa_span words,
                           const value_terms_t *terms) {
    const int64_t width = block->job->shape.value_width, capacity = words_of(key_count(block));
    const int64_t value_dim = block->job->problem->value_dim;
    const mfa_span columns = group_columns(&block->job->int8.value, group, value_dim);
    const left_t weights = {block->scratch + block->job->int8.weights, MFAI_CPU_INT8_KEYS / WORD_DEPTH};
    for (int64_t c = columns.begin; c < columns.end; c += PANEL) {
        const bool full = panel_is_full(c / PANEL, value_dim);
        value_terms_t of_panel = *terms;
        of_panel.zeros += c;
        if (of_panel.factors != NULL)
            of_panel.factors += c;
        multiply_weights(rows, full, weights, block->value_panels + c * capacity + words.begin * (full ? PANEL : VL),
                         words.end - words.begin, &of_panel, (sums_t){block->out + first * width + c, width});
    }
}

/* out = out * correction + weights . values, for the keys that rows of the tile see. */
static void multiply_values(const block_t *block, int first, int rows, mfa_span seen, const float *correction) {
    const mfai_cpu_int8_t *at = &block->job->int8;
    uint8_t *bytes = (uint8_t *)(block->scratch + at->weights);
    float corrections[ROW_TILE], scales[ROW_TILE], sums[ROW_TILE];
    memcpy(corrections, correction, (size_t)rows * sizeof *corrections);
    for (int64_t key = seen.begin / VL * VL, end; key < seen.end; key = end) {
        end = (key / MFAI_CPU_INT8_KEYS + 1) * MFAI_CPU_INT8_KEYS;
        end = end < seen.end ? end : seen.end;
        const int64_t count = mfai_round_up(end - key, VL);
        for (int64_t g = 0; g < at->value.groups; ++g) {
            const float *row_scales = block->scratch + at->value_row_scales + g * block->stride + key;
            for (int r = 0; r < rows; ++r) {
                uint8_t *row = bytes + r * MFAI_CPU_INT8_KEYS;
                const float *weights = block->scores + (first + r) * block->stride + key;
                scales[r] = at->value.row_scales ? round_weights(weights, row_scales, count, row)
                                                 : round_weights(weights, NULL, count, row);
                if (at->value.has_zeros)
                    sums[r] = sum_zeros(row, value_row_zeros(block, g) + key, count);
            }
            const value_terms_t terms = {.corrections = corrections,
                                         .weight_scales = scales,
                                         .weight_sums = at->value.has_zeros ? sums : NULL,
                                         .zeros = block->scratch + at->value_zeros};
            multiply_group(block, g, first, rows, mfa_span_of(key / WORD_DEPTH, words_of(end)), &terms);
        }
        fill_floats(corrections, rows, 1);
    }
}

/* Sums of a task's rows become those of what values stand for, but for what rows of these have as a factor. */
static void scale_sums(const mfai_cpu_forward_job_t *job, float *scratch, int64_t rows) {
    const int64_t width = job->shape.value_width;
    const float *factors = scratch + job->int8.value_factors;
    if (job->int8.value.row_scales)
        return;
    for (int64_t r = 0; r < rows; ++r) {
        float *out = scratch + job->scratch.out + r * width;
        for (int64_t c = 0; c < width; c += VL)
            vf_store(out + c, vf_mul(vf_load(out + c), vf_load(factors + c)));
    }
}

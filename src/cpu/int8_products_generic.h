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
    const int32_t key_format = at->key.remade ? MFAI_FORMAT_INT8 : p->key.format;
    find_columns(&p->key_quantization, &at->key, mfai_cpu_int8_key_offset(key_format), walk, kv_head, p->head_dim,
                 scratch + at->key_factors, scratch + at->key_zeros);
    find_columns(&p->value_quantization, &at->value, mfai_cpu_int8_value_offset(p->value.format), walk, kv_head,
                 p->value_dim, scratch + at->value_factors, scratch + at->value_zeros);
    if (at->value.row_zeros) /* of rows, then, which meet each column */
        fill_floats(scratch + at->value_zeros, mfai_round_up(p->value_dim, PANEL), 1);
    const mfai_view_t *mean = &p->key_quantization.mean;
    float *means = scratch + at->mean;
    memset(means, 0, (size_t)mfai_round_up(p->head_dim, VL) * sizeof *means);
    if (mean->present)
        read_numbers(mfai_view_row(mean, walk->batch, kv_head, 0), mean->format, mean->stride[3], p->head_dim, means);
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
    if (!job->int8.key.remade)
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

/* The block's rows as codes of their own, with one scale for each column. Means stay out: they would take up most of
   what a code can say. */
static mfai_rows_t remake_rows(const block_t *block, const mfai_view_t *codes, const mfai_quantization_t *quantization,
                               float *code_room, float *scales) {
    const mfai_cpu_forward_job_t *job = block->job;
    mfai_quantization_t without_mean = *quantization;
    without_mean.mean.present = false;
    mfai_rows_room_t room = block->room;
    room.copy = (char *)(block->scratch + job->int8.reals);
    mfai_rows_t rows = find_real_rows(codes, &without_mean, block->walk->batch, block->kv_head, block->keys.begin,
                                      key_count(block), &room, job->shape.block_keys, code_room);
    const int64_t columns = codes->shape[3], step = mfai_round_up(columns, VL);
    int8_t *bytes = (int8_t *)(block->scratch + job->int8.bytes);
    for (int64_t c = 0; c < columns; c += VL) {
        const int n = columns - c < VL ? (int)(columns - c) : VL;
        vf most = vf_set1(0x1p-100f); /* so that its inverse is finite */
        for (int64_t j = 0; j < rows.count; ++j)
            most = vf_max(vf_abs(load_converted(rows.row[j], MFAI_FORMAT_FP32, c, n)), most);
        vf_store(scales + c, vf_mul(most, vf_set1(1.0f / 127)));
        const vf inverse = vf_div(vf_set1(127), most);
        for (int64_t j = 0; j < rows.count; ++j)
            store_signed_bytes(bytes + j * step + c,
                               vf_mul(load_converted(rows.row[j], MFAI_FORMAT_FP32, c, n), inverse));
    }
    for (int64_t j = 0; j < rows.count; ++j)
        room.table[j] = (const char *)(bytes + j * step);
    rows.format = MFAI_FORMAT_INT8;
    return rows;
}

/* Rows to pack; `scales` get those of columns if these are made here. */
static mfai_rows_t find_code_rows(const block_t *block, const mfai_cpu_int8_side_t *side, const mfai_view_t *codes,
                                  const mfai_quantization_t *quantization, float *code_room, float *scales) {
    if (side->remade)
        return remake_rows(block, codes, quantization, code_room, scales);
    return mfai_rows_find(codes, block->walk->batch, block->kv_head, block->keys.begin, key_count(block), &block->room);
}

static void pack_block(const block_t *block) {
    const mfai_cpu_forward_job_t *job = block->job;
    const mfai_problem_t *p = job->problem;
    find_key_terms(block);
    find_value_terms(block);
    if (block->direct_codes)
        return;
    const mfai_rows_t keys = find_code_rows(block, &job->int8.key, &p->key, &p->key_quantization, block->key_codes,
                                            block->scratch + job->int8.key_factors);
    pack_keys(&keys, job->shape.query_words, block->key_panels);
    const mfai_rows_t values = find_code_rows(block, &job->int8.value, &p->value, &p->value_quantization,
                                              block->value_codes, block->scratch + job->int8.value_factors);
    pack_values(&values, (char *)(block->scratch + job->int8.bytes), block->value_panels);
}

/* Where a group of columns begins and ends. */
static mfa_span group_columns(const mfai_cpu_int8_side_t *side, int64_t group, int64_t columns) {
    const int64_t end = (group + 1) * side->group_columns;
    return mfa_span_of(group * side->group_columns, end < columns ? end : columns);
}

/* Of rows of the block from r on and keys from `key` on, in a group of columns. */
static score_terms_t score_terms(const block_t *block, int r, int64_t group, int64_t key) {
    const mfai_cpu_int8_t *at = &block->job->int8;
    const float *scratch = block->scratch;
    const int64_t row = block->at + r, in_group = group * block->job->shape.chunk_rows + row;
    key += group * block->stride;
    return (score_terms_t){
        .row_starts = (const int32_t *)(const void *)(scratch + at->query_starts + in_group),
        .row_factors = scratch + at->query_scales + row,
        .row_means = group == 0 ? scratch + at->query_means + row : NULL,
        .row_sums = scratch + at->query_sums + in_group,
        .key_scales = scratch + at->key_row_scales + key,
        .key_zeros = at->key.row_zeros ? scratch + at->key_row_zeros + key : NULL,
    };
}

static mfai_spaced_rows_t space_rows(const block_t *block, const mfai_view_t *view, mfa_span rows) {
    const mfai_walk_t *walk = block->walk;
    return mfai_rows_space(view, walk->batch, block->kv_head, block->keys.begin, rows, walk->extent.key_count,
                           &block->room);
}

/* Of some rows, in a group of columns, as direct_scores wants them. */
static left_t direct_queries(const block_t *block, int first, int rows, mfa_span columns) {
    const int64_t words = block->job->shape.query_words;
    const lane32 *query = block->query + first * words;
    if (direct_width(columns, block->job->problem->key.format) != DIRECT_PAIRS)
        return (left_t){query, words};
    lane32 *split = block->scratch + block->job->int8.bytes;
    for (int r = 0; r < rows; ++r)
        split_query((const int8_t *)(query + r * words), columns, (int8_t *)(split + r * words));
    return (left_t){split, words};
}

/* Groups are halves of vectors of codes. */
static bool are_halves(const mfai_cpu_int8_side_t *side) {
    return side->groups > 1 && side->group_columns < DIRECT_COLUMNS;
}

#if defined(HALF_GROUPS)
static void multiply_halves(const block_t *block, mfa_span seen) {
    const mfai_problem_t *p = block->job->problem;
    const mfai_cpu_int8_side_t *side = &block->job->int8.key;
    const int64_t words = block->job->shape.query_words;
    const mfai_spaced_rows_t keys = space_rows(block, &p->key, seen);
    const sums_t sums = {block->key_panels, block->stride}; /* nothing is packed there */
    for (int first = 0; first < block->rows; first += DIRECT_ROWS)
        for (int64_t g = 0; g < side->groups; g += 2) {
            const int rows = block->rows - first < DIRECT_ROWS ? block->rows - first : DIRECT_ROWS;
            const int halves = g + 1 < side->groups ? 2 : 1;
            const score_terms_t terms[2] = {score_terms(block, first, g, 0),
                                            score_terms(block, first, g + halves - 1, 0)};
            const int32_t *const starts[2] = {terms[0].row_starts, halves == 2 ? terms[1].row_starts : NULL};
            const mfa_span columns = mfa_span_of(group_columns(side, g, p->head_dim).begin,
                                                 group_columns(side, g + halves - 1, p->head_dim).end);
            direct_score_halves(rows, &keys, columns, (left_t){block->query + first * words, words}, starts, seen,
                                sums);
            for (int half = 0; half < halves; ++half)
                for (int r = 0; r < rows; ++r)
                    for (int64_t j = seen.begin / VL * VL; j < seen.end; j += VL)
                        add_score_sums(vf_load(sums.first + (half * DIRECT_ROWS + r) * sums.stride + j), &terms[half],
                                       r, j, block->scores + (first + r) * block->stride + j);
        }
}
#endif

static void multiply_direct(const block_t *block, mfa_span seen) {
#if defined(HALF_GROUPS)
    if (are_halves(&block->job->int8.key)) {
        multiply_halves(block, seen);
        return;
    }
#endif
    const mfai_problem_t *p = block->job->problem;
    const mfai_spaced_rows_t keys = space_rows(block, &p->key, seen);
    const sums_t sums = {block->key_panels, block->stride}; /* nothing is packed there */
    for (int first = 0; first < block->rows; first += DIRECT_ROWS)
        for (int64_t g = 0; g < block->job->int8.key.groups; ++g) {
            const int rows = block->rows - first < DIRECT_ROWS ? block->rows - first : DIRECT_ROWS;
            const score_terms_t terms = score_terms(block, first, g, 0);
            const mfa_span columns = group_columns(&block->job->int8.key, g, p->head_dim);
            direct_scores(rows, &keys, columns, direct_queries(block, first, rows, columns), terms.row_starts, seen,
                          sums);
            for (int r = 0; r < rows; ++r)
                for (int64_t j = seen.begin / VL * VL; j < seen.end; j += VL)
                    add_score_sums(vf_load(sums.first + r * sums.stride + j), &terms, r, j,
                                   block->scores + (first + r) * block->stride + j);
        }
}

static void multiply_scores(const block_t *block, mfa_span seen) {
    const mfai_cpu_forward_job_t *job = block->job;
    const mfai_cpu_int8_side_t *side = &job->int8.key;
    const int64_t words = job->shape.query_words;
    if (block->direct_codes) {
        multiply_direct(block, seen);
        return;
    }
    if (side->remade)
        pack_some_queries(job, block->walk, mfa_span_of(block->first_row, block->first_row + block->rows), block->at,
                          block->scratch);
    for (int64_t panel = seen.begin / PANEL; panel * PANEL < seen.end; ++panel) {
        const bool full = panel_is_full(panel, key_count(block));
        for (int r = 0; r < block->rows; r += ROW_TILE)
            for (int64_t g = 0; g < side->groups; ++g) {
                const mfa_span columns = group_columns(side, g, job->problem->head_dim);
                const int64_t first = columns.begin / WORD_DEPTH;
                const score_terms_t terms = score_terms(block, r, g, panel * PANEL);
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

static value_terms_t terms_of_rows(const value_terms_t *terms, int first) {
    value_terms_t of_rows = *terms;
    of_rows.corrections += first;
    of_rows.weight_scales += first;
    if (of_rows.weight_sums != NULL)
        of_rows.weight_sums += first;
    return of_rows;
}

/* Likewise, of values where they lie, `seen` of them. */
static void multiply_group_direct(const block_t *block, const mfai_spaced_rows_t *values, int64_t group, int first,
                                  int rows, mfa_span words, mfa_span seen, const value_terms_t *terms) {
    const int64_t width = block->job->shape.value_width, stride = MFAI_CPU_INT8_KEYS / WORD_DEPTH;
    const lane32 *weights = block->scratch + block->job->int8.weights;
    const mfa_span columns = group_columns(&block->job->int8.value, group, block->job->problem->value_dim);
    for (int r = 0; r < rows; r += DIRECT_ROWS) {
        const value_terms_t of_rows = terms_of_rows(terms, r);
        direct_values(rows - r < DIRECT_ROWS ? rows - r : DIRECT_ROWS, values, columns,
                      (left_t){weights + r * stride, stride}, words, seen, &of_rows,
                      (sums_t){block->out + (first + r) * width, width});
    }
}

#if defined(HALF_GROUPS)
/* As multiply_group_direct, of two groups, the weights of the second behind those of the first. */
static void multiply_halves_direct(const block_t *block, const mfai_spaced_rows_t *values, mfa_span columns, int first,
                                   int rows, mfa_span words, mfa_span seen, const value_terms_t terms[2]) {
    const int64_t width = block->job->shape.value_width, stride = MFAI_CPU_INT8_KEYS / WORD_DEPTH;
    const lane32 *weights = block->scratch + block->job->int8.weights;
    for (int r = 0; r < rows; r += DIRECT_ROWS) {
        const value_terms_t of_rows[2] = {terms_of_rows(&terms[0], r), terms_of_rows(&terms[1], r)};
        direct_value_halves(rows - r < DIRECT_ROWS ? rows - r : DIRECT_ROWS, values, columns,
                            (left_t){weights + r * stride, stride}, weights + (ROW_TILE + r) * stride, words, seen,
                            of_rows, (sums_t){block->out + (first + r) * width, width});
    }
}
#endif

/* out = out * correction + weights . values, for the keys that rows of the tile see. */
static void multiply_values(const block_t *block, int first, int rows, mfa_span seen, const float *correction) {
    const mfai_cpu_int8_t *at = &block->job->int8;
    uint8_t *bytes = (uint8_t *)(block->scratch + at->weights);
    float corrections[ROW_TILE], scales_of[2][ROW_TILE], sums_of[2][ROW_TILE];
    value_terms_t terms[2];
    const bool halves = block->direct_codes && are_halves(&at->value);
    memcpy(corrections, correction, (size_t)rows * sizeof *corrections);
    mfai_spaced_rows_t in_place = {0};
    if (block->direct_codes)
        in_place = space_rows(block, &block->job->problem->value, seen);
    for (int64_t key = seen.begin / VL * VL, end; key < seen.end; key = end) {
        end = (key / MFAI_CPU_INT8_KEYS + 1) * MFAI_CPU_INT8_KEYS;
        end = end < seen.end ? end : seen.end;
        const int64_t count = mfai_round_up(end - key, VL);
        for (int64_t g = 0; g < at->value.groups; ++g) {
            const float *row_scales = block->scratch + at->value_row_scales + g * block->stride + key;
            const int upper = halves && g % 2 == 1;
            float *scales = scales_of[upper], *sums = sums_of[upper];
            for (int r = 0; r < rows; ++r) {
                uint8_t *row = bytes + (upper * ROW_TILE + r) * MFAI_CPU_INT8_KEYS;
                const float *weights = block->scores + (first + r) * block->stride + key;
                scales[r] = at->value.row_scales ? round_weights(weights, row_scales, count, row)
                                                 : round_weights(weights, NULL, count, row);
                if (at->value.has_zeros)
                    sums[r] = sum_zeros(row, value_row_zeros(block, g) + key, count);
            }
            terms[upper] = (value_terms_t){
                .corrections = corrections,
                .weight_scales = scales,
                .weight_sums = at->value.has_zeros ? sums : NULL,
                .zeros = block->scratch + at->value_zeros,
                .factors = at->value.remade ? block->scratch + at->value_factors : NULL,
            };
            const mfa_span words = mfa_span_of(key / WORD_DEPTH, words_of(end));
#if defined(HALF_GROUPS)
            if (halves && !upper && g + 1 < at->value.groups)
                continue;
            if (halves) {
                const mfa_span last = group_columns(&at->value, g, block->job->problem->value_dim);
                terms[1] = terms[upper]; /* a last group may be alone */
                multiply_halves_direct(block, &in_place, mfa_span_of(g / 2 * DIRECT_COLUMNS, last.end), first, rows,
                                       words, seen, terms);
                continue;
            }
#endif
            if (block->direct_codes)
                multiply_group_direct(block, &in_place, g, first, rows, words, seen, terms);
            else
                multiply_group(block, g, first, rows, words, terms);
        }
        fill_floats(corrections, rows, 1);
    }
}

/* Sums of a task's rows become those of what values stand for, but for what rows of these have as a factor. */
static void scale_sums(const mfai_cpu_forward_job_t *job, float *scratch, int64_t rows) {
    const int64_t width = job->shape.value_width;
    const float *factors = scratch + job->int8.value_factors;
    if (job->int8.value.row_scales || job->int8.value.remade)
        return;
    for (int64_t r = 0; r < rows; ++r) {
        float *out = scratch + job->scratch.out + r * width;
        for (int64_t c = 0; c < width; c += VL)
            vf_store(out + c, vf_mul(vf_load(out + c), vf_load(factors + c)));
    }
}

/*
 * The forward pass. One task is a chunk of the query rows that share a key/value head, and a range of keys:
 *
 *   pack the chunk's queries
 *   for each block of keys that some row sees:
 *     pack keys transposed in panels of columns, and values in panels of columns
 *     for each sub-block of rows:
 *       scores = queries . keys            (register tiles; only panels that the rows see)
 *       finish scores: scale, softcap, biases, hidden keys
 *       weights = exp2(scores - running max), running sums
 *       out = out * correction + weights . values
 *   divide, or leave partial sums for the combine step
 *
 * Online softmax: Milakov and Gimelshein (2018). Rows outer, keys inner: FlashAttention-2 (Dao, 2023).
 */

/* A sub-block of query rows and a block of keys. */
typedef struct {
    const mfai_cpu_forward_job_t *job;
    const mfai_walk_t *walk;
    bool direct, direct_codes; /* the latter in integers */
    mfa_span keys;
    int64_t kv_head, first_row;
    float scale; /* times a product, in a score pass */
    int rows;
    int64_t at;     /* the first row, counted from the chunk's */
    float *scratch; /* the thread's */
    const lane32 *query;
    lane32 *key_panels, *value_panels; /* room for them, filled by `attend` when packed */
    mfai_rows_room_t room;
    float *key_codes, *value_codes;               /* room for what codes are scaled by */
    mfai_cpu_scales_t *key_scales, *value_scales; /* what is there, of the keys that `attend` is about, if direct */
    float *out, *row_max, *row_sum;               /* of the first row */
    float *scores, *value_scores, *bias, *drop_factors;
    int64_t stride; /* of a row of scores or bias */
} block_t;

static int64_t key_count(const block_t *block) { return block->keys.end - block->keys.begin; }

#if WORD_DEPTH == 4
/* int8_products_generic.h has these. */
static void begin_head(const mfai_cpu_forward_job_t *job, const mfai_walk_t *walk, int64_t kv_head, float *scratch);
static void pack_query_rows(const mfai_cpu_forward_job_t *job, const mfai_walk_t *walk, mfa_span rows, float *scratch);
static void pack_block(const block_t *block);
static void multiply_scores(const block_t *block, mfa_span seen);
static void multiply_values(const block_t *block, int first, int rows, mfa_span seen, const float *correction);
static void scale_sums(const mfai_cpu_forward_job_t *job, float *scratch, int64_t rows);
#else
static mfai_rows_t find_rows(const block_t *block, const mfai_view_t *view, const mfai_quantization_t *quantization,
                             float *code_room) {
    return find_real_rows(view, quantization, block->walk->batch, block->kv_head, block->keys.begin, key_count(block),
                          &block->room, block->job->shape.block_keys, code_room);
}

/* Weights as words, from the word `first` of a row on. */
static left_t weights_from(const block_t *block, int row, int64_t first) {
    return (left_t){block->scores + row * block->stride + first, block->stride};
}

static mfai_spaced_rows_t space_rows(const block_t *block, const mfai_view_t *view, mfa_span rows) {
    const mfai_walk_t *walk = block->walk;
    return mfai_rows_space(view, walk->batch, block->kv_head, block->keys.begin, rows, walk->extent.key_count,
                           &block->room);
}

__attribute__((noinline)) static void find_direct_scales(const block_t *block, mfa_span seen) {
    const mfai_problem_t *p = block->job->problem;
    const int64_t b = block->walk->batch, h = block->kv_head, first = block->keys.begin,
                  most = block->job->shape.block_keys;
    *block->key_scales = find_scales(&p->key, &p->key_quantization, b, h, first, seen, most, block->key_codes);
    *block->value_scales = find_scales(&p->value, &p->value_quantization, b, h, first, seen, most, block->value_codes);
}

#if WORD_DEPTH == 1
/* Of rows that meet keys, and values, as direct_generic.h reads them. */
static void split_queries(const mfai_cpu_forward_job_t *job, int64_t rows, float *query) {
    const mfai_problem_t *p = job->problem;
    const int64_t words = job->shape.query_words, first = job->shape.key_words;
    const bool keys = is_split(mfai_cpu_scaled(&p->key, &p->key_quantization), p->key.format);
    const bool values =
        p->query_value.present && is_split(mfai_cpu_scaled(&p->value, &p->value_quantization), p->value.format);
    for (int64_t r = 0; r < rows; ++r) {
        if (keys)
            split_pairs(query + r * words, p->head_dim);
        if (values)
            split_pairs(query + r * words + first, p->value_dim);
    }
}
#endif

/* Products of queries, from the word `first` on, and keys, or values in their place. */
static void multiply_direct(const block_t *block, const mfai_view_t *keys, const mfai_cpu_scales_t *scales,
                            int64_t first, mfa_span seen, float *to) {
    const mfai_spaced_rows_t spaced = space_rows(block, keys, seen);
    direct_scores(&spaced, scales, (left_t){block->query + first, block->job->shape.query_words}, block->rows, seen,
                  (sums_t){to, block->stride});
    if (scales->kind == MFAI_SCALED_ROWS)
        for (int r = 0; r < block->rows; ++r)
            for (int64_t j = seen.begin / VL * VL; j < seen.end; j += VL) {
                float *scores = to + r * block->stride + j;
                vf_store(scores, vf_mul(vf_load(scores), vf_load(scales->scales + j)));
            }
}

static void add_value_scores(const block_t *block, mfa_span seen) {
    multiply_direct(block, &block->job->problem->value, block->value_scales, block->job->shape.key_words, seen,
                    block->value_scores);
    for (int r = 0; r < block->rows; ++r)
        for (int64_t j = seen.begin; j < seen.end; ++j)
            block->scores[r * block->stride + j] += block->value_scores[r * block->stride + j];
}

static void multiply_scores(const block_t *block, mfa_span seen) {
    const mfai_problem_t *p = block->job->problem;
    const int64_t words = block->job->shape.query_words, first = block->job->shape.key_words;
    if (block->direct) {
        multiply_direct(block, &p->key, block->key_scales, 0, seen, block->scores);
        if (p->query_value.present)
            add_value_scores(block, seen);
        return;
    }
    for (int64_t panel = seen.begin / PANEL; panel * PANEL < seen.end; ++panel)
        for (int r = 0; r < block->rows; r += ROW_TILE) {
            const sums_t scores = {block->scores + r * block->stride + panel * PANEL, block->stride};
            const int rows = block->rows - r < ROW_TILE ? block->rows - r : ROW_TILE;
            const bool full = panel_is_full(panel, key_count(block));
            const lane32 *query = block->query + r * words, *columns = block->key_panels + panel * PANEL * words;
            multiply_replace(rows, full, (left_t){query, words}, columns, words_of(p->head_dim), scores, NULL);
            if (p->query_value.present)
                multiply_add(rows, full, (left_t){query + first, words}, columns + first * (full ? PANEL : VL),
                             words_of(p->value_dim), scores, NULL);
        }
}

/* Words of keys in one sum before it is added to the others: shorter sums round less. */
enum { SUM_WORDS = 128 };
static const float unchanged[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
_Static_assert(ROW_TILE <= 12, "a factor for each row of a tile");

#if WORD_DEPTH == 2
/* Values of a word of keys of which one is not seen: whatever that one holds must not meet its weight, 0. */
static void mask_half(const lane32 *values, int64_t count, uint32_t mask, lane32 *edge) {
    for (int64_t i = 0; i < count; ++i)
        edge[i] = mfai_bits_to_f32(mfai_f32_to_bits(values[i]) & mask);
}
#endif

/* out = out * correction + weights . values, for the keys that rows of the tile see. */
static void multiply_values(const block_t *block, int first, int rows, mfa_span seen, const float *correction) {
    const mfai_problem_t *p = block->job->problem;
    const int64_t width = block->job->shape.value_width;
    float *out = block->out + first * width;
    const int64_t from = seen.begin, to = seen.end;
    if (block->direct) {
        const mfai_spaced_rows_t values = space_rows(block, &p->value, seen);
        /* Nothing is packed, so the room for packed values, which is at least that large, holds the block's sums. */
        float *sums = (float *)block->value_panels;
        for (int r = 0; r < rows; r += DIRECT_ROWS) {
            const int some = rows - r < DIRECT_ROWS ? rows - r : DIRECT_ROWS;
            memset(sums, 0, (size_t)(some * width) * sizeof *sums);
            direct_values(&values, block->value_scales, weights_from(block, first + r, 0), some, seen,
                          (sums_t){sums, width});
#if WORD_DEPTH == 1
            for (int i = 0; i < some && is_split(block->value_scales->kind, p->value.format); ++i)
                join_pairs(sums + i * width, p->value_dim);
#endif
            for (int i = 0; i < some; ++i)
                for (int64_t c = 0; c < width; c += VL) {
                    float *total = out + (r + i) * width + c;
                    vf_store(total, vf_fma(vf_load(total), vf_set1(correction[r + i]), vf_load(sums + i * width + c)));
                }
        }
        return;
    }
    const int64_t capacity = words_of(key_count(block));
    /* Words that rows of the tile see whole; what lies beyond the block's last key was packed as zeros. */
    const int64_t start = words_of(from), end = to == key_count(block) ? capacity : to / WORD_DEPTH;
    for (int64_t panel = 0; panel * PANEL < p->value_dim; ++panel) {
        const bool full = panel_is_full(panel, p->value_dim);
        const int64_t panel_width = full ? PANEL : VL;
        const lane32 *values = block->value_panels + panel * PANEL * capacity;
        const sums_t to_panel = {out + panel * PANEL, width};
        const float *factor = correction;
#if WORD_DEPTH == 2
        if (from % 2 != 0) {
            lane32 edge[PANEL];
            mask_half(values + (start - 1) * panel_width, panel_width, 0xffff0000u, edge);
            multiply_rescale(rows, full, weights_from(block, first, start - 1), edge, 1, to_panel, factor);
            factor = unchanged;
        }
#endif
        for (int64_t k = start; k < end; k += SUM_WORDS, factor = unchanged)
            multiply_rescale(rows, full, weights_from(block, first, k), values + k * panel_width,
                             end - k < SUM_WORDS ? end - k : SUM_WORDS, to_panel, factor);
#if WORD_DEPTH == 2
        if (end * WORD_DEPTH < to) {
            lane32 edge[PANEL];
            mask_half(values + end * panel_width, panel_width, 0x0000ffffu, edge);
            multiply_rescale(rows, full, weights_from(block, first, end), edge, 1, to_panel, factor);
        }
#endif
    }
}

static void pack_block(const block_t *block) {
    const mfai_cpu_forward_job_t *job = block->job;
    const mfai_problem_t *p = job->problem;
    const mfai_rows_t keys = find_rows(block, &p->key, &p->key_quantization, block->key_codes);
    pack_keys(&keys, job->shape.query_words, 0, block->key_panels);
    const mfai_rows_t values = find_rows(block, &p->value, &p->value_quantization, block->value_codes);
    if (p->query_value.present)
        pack_keys(&values, job->shape.query_words, job->shape.key_words, block->key_panels);
    pack_values(&values, block->value_panels);
}
#endif

/* Scores in log2 from which on the exponent takes a step of its own: in one with the scaling, the largest score would
   miss the reference by what that was rounded by, which may be more than an exponent holds. */
#define LARGE_SCORE 0x1p12f

/* As row_weights, of what the products have left in `row`. */
static float weigh(const mfai_cpu_forward_job_t *job, float *row, int64_t begin, int64_t end, int64_t from, int64_t to,
                   float reference, const float *drop_factors) {
    if (!job->score_pass && fabsf(reference) < LARGE_SCORE)
        return row_weights(job, false, row, begin, end, from, to, reference, drop_factors);
    if (!job->score_pass)
        scale_row(job, row, begin, end);
    return row_weights(job, true, row, begin, end, from, to, reference, drop_factors);
}

/* What the weights of a row meet, from the vector at `start` on: dropout, and scales of values that have one each. NULL:
   nothing. */
static const float *find_factors(const block_t *block, int r, int64_t start, int64_t end) {
    const mfai_cpu_forward_job_t *job = block->job;
    const mfai_cpu_scales_t *values = block->value_scales;
    const float *scales = block->direct && values->kind == MFAI_SCALED_ROWS ? values->scales : NULL;
    if (!job->dropout.on)
        return scales;
    const int64_t at = block->first_row + r;
    float *factors = block->drop_factors;
    fill_drop_factors(&job->dropout, block->walk->batch, row_head(block->walk, at), row_position(block->walk, at),
                      block->keys.begin + start, (end - start + VL - 1) / VL * VL, factors + start);
    for (int64_t j = start; j < end && scales != NULL; j += VL)
        vf_store(factors + j, vf_mul(vf_load(factors + j), vf_load(scales + j)));
    return factors;
}

/* Apart, so that its arrays are not on the stack while `attend` packs. */
__attribute__((noinline)) static void softmax_and_values(const block_t *block, const seen_t *seen) {
    const mfai_cpu_forward_job_t *job = block->job;
    float reference[SUB_ROWS + VL] = {0}, correction[SUB_ROWS + VL] = {0};
    for (int r = 0; r < block->rows; ++r) {
        float most = block->row_max[r];
        if (!mfa_span_is_empty(seen->row[r])) {
            const float here =
                row_max(block->scores + r * block->stride, seen->row[r].begin, seen->row[r].end) * job->score_factor;
            most = here > most ? here : most;
        }
        reference[r] = most == -INFINITY ? 0 : most; /* so that -inf - reference is -inf, not NaN */
        correction[r] = block->row_max[r];
        block->row_max[r] = most;
    }
    for (int r = 0; r < block->rows; r += VL)
        vf_store(correction + r,
                 vf_exp2(vf_mul(vf_sub(vf_load(correction + r), vf_load(reference + r)), vf_set1(job->max_to_log2))));
    for (int first = 0; first < block->rows; first += ROW_TILE) {
        const int rows = block->rows - first < ROW_TILE ? block->rows - first : ROW_TILE;
        mfa_span any = mfa_span_of(0, 0);
        for (int r = first; r < first + rows; ++r)
            any = join_spans(any, seen->row[r]);
        if (mfa_span_is_empty(any))
            continue;
        const int64_t start = any.begin / VL * VL, end = any.end;
        for (int r = first; r < first + rows; ++r) {
            float *row = block->scores + r * block->stride;
            const float sum = weigh(job, row, seen->row[r].begin, seen->row[r].end, start, end, reference[r],
                                    find_factors(block, r, start, end));
            block->row_sum[r] = block->row_sum[r] * correction[r] + sum;
        }
        multiply_values(block, first, rows, any, correction + first);
    }
}

/* The rows meet some of the block's keys. Packs keys and values on the first call for a block. */
static void attend(const block_t *block, mfa_span among, bool *packed) {
    const mfai_cpu_forward_job_t *job = block->job;
    const mfai_problem_t *p = job->problem;
    mfa_span row[SUB_ROWS];
    const mfa_span rows = mfa_span_of(block->first_row, block->first_row + block->rows);
    seen_t seen = find_seen(block->walk, rows, among, block->keys.begin, row);
    uint8_t found[SUB_ROWS] = {0};
    unsigned bias = 0;
    if (job->has_bias && !mfa_span_is_empty(seen.any))
        bias = fill_bias(block->walk, rows, block->keys.begin, &seen, (sums_t){block->bias, block->stride}, found);
    if (mfa_span_is_empty(seen.any))
        return;
    if (!*packed && !block->direct) {
        pack_block(block);
        *packed = true;
    }
#if WORD_DEPTH != 4
    if (block->direct)
        find_direct_scales(block, seen.any);
#endif
    multiply_scores(block, seen.any);
    const bool adds = p->features & MFAI_BIASES && bias & BIAS_ANY_NONZERO;
    for (int r = 0; r < block->rows; ++r) {
        float *scores = block->scores + r * block->stride;
        const float *row_bias = block->bias + r * block->stride;
        if (job->score_pass && adds)
            finish_scores(p, block->scale, scores, row_bias, row[r]);
        else if (job->score_pass)
            finish_scores(p, block->scale, scores, NULL, row[r]);
        if (!adds && found[r] & BIAS_ANY_NONZERO)
            hide_scores(scores, row_bias, row[r]);
    }
    softmax_and_values(block, &seen);
}

/* The rows meet those of the block's keys that some of them may see. */
static void attend_runs(const block_t *block, bool *packed) {
    if (!(block->job->problem->features & MFAI_BLOCKS)) {
        attend(block, block->keys, packed);
        return;
    }
    const mfa_span rows = row_positions(block->walk, mfa_span_of(block->first_row, block->first_row + block->rows));
    mfa_span left = block->keys;
    for (;;) {
        const mfa_span run = mfai_walk_next(block->walk, rows, left, key_count(block));
        if (mfa_span_is_empty(run))
            return;
        attend(block, run, packed);
        left.begin = run.end;
    }
}

/* Rows from `first` of a chunk on that make a sub-block. */
static int64_t sub_block_rows(const mfai_cpu_forward_part_t *part, int64_t first, int64_t end) {
    int64_t rows = end - first < SUB_ROWS ? end - first : SUB_ROWS;
    if (part->line_rows > 0 && part->line_rows - first % part->line_rows < rows)
        rows = part->line_rows - first % part->line_rows;
    return rows;
}

/* Divides by the sum, with the sink in it, and writes out and logsumexp. */
static void finish_row(const mfai_cpu_forward_job_t *job, int64_t b, int64_t head, int64_t row, const float *sums,
                       float row_max, float row_sum) {
    const mfai_problem_t *p = job->problem;
    float most = row_max * job->max_to_natural, factor = 1;
    if (p->sinks.present) {
        const float sink = ((const float *)p->sinks.data)[head * p->sinks.stride[1]], visible = most;
        most = sink > most ? sink : most;
        if (most != -INFINITY || isnan(sink)) {
            factor = expf(visible - most);
            row_sum = row_sum * factor + expf(sink - most);
        }
    }
    factor *= mfai_factor_of(&p->value_scale, b, head / p->group);
    store_row(sums, p->value_dim, row_sum == 0 ? 0 : factor / row_sum, mfai_view_row(&p->out, b, head, row),
              p->out.format, p->out.stride[3]);
    if (p->logsumexp.present) {
        float *logsumexp = (float *)mfai_view_row(&p->logsumexp, b, head, row);
        *logsumexp = row_sum == 0 ? -INFINITY : most + logf(row_sum);
    }
}

#if WORD_DEPTH != 4
static void pack_query_rows(const mfai_cpu_forward_job_t *job, const mfai_walk_t *walk, mfa_span rows, float *scratch) {
    const mfai_problem_t *p = job->problem;
    char *copy = (char *)(scratch + job->scratch.copy);
    lane32 *query = scratch + job->scratch.query;
    const int64_t first = job->shape.key_words;
    pack_queries(job, &p->query, walk, rows, copy, first, query);
    if (p->query_value.present)
        pack_queries(job, &p->query_value, walk, rows, copy, job->shape.query_words - first, query + first);
}
#endif

/* The last part of which a number, one of the first_... that `member` is the offset of, is at most this. */
static const mfai_cpu_forward_part_t *find_part(const mfai_cpu_forward_job_t *job, size_t member, int64_t number) {
    int64_t begin = 0, end = job->part_count;
    while (end - begin > 1) {
        const int64_t middle = begin + (end - begin) / 2;
        int64_t first;
        memcpy(&first, (const char *)&job->parts[middle] + member, sizeof first);
        *(first <= number ? &begin : &end) = middle;
    }
    return &job->parts[begin];
}

static void forward_task(void *argument, int64_t task, int slot) {
    const mfai_cpu_forward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_forward_shape_t *shape = &job->shape;
    float *scratch = (float *)job->memory + slot * job->scratch.size;

    /* Tasks of one head follow each other, so that its keys stay in cache, and the costliest causal rows, the last,
       come first. */
    task = job->order != NULL ? job->order[task] : task;
    const mfai_cpu_forward_part_t *part = find_part(job, offsetof(mfai_cpu_forward_part_t, first_task), task);
    const int64_t number = task - part->first_task;
    const int64_t split = number % part->splits, bh = number / part->splits / part->chunks;
    const int64_t chunk = part->chunks - 1 - number / part->splits % part->chunks;
    const int64_t sets = p->heads / part->group, b = part->batch + bh / sets, head = bh % sets * part->group;
    const int64_t kv_head = head / p->group;
    const int64_t first_row = chunk * part->chunk_rows;
    const int64_t rows = part->rows - first_row < part->chunk_rows ? part->rows - first_row : part->chunk_rows;
    const int64_t words = shape->query_words, width = shape->value_width;
    const float scale = mfai_score_scale(p, b, kv_head);

    const mfai_walk_t walk = mfai_walk_of(p, b, mfa_span_of(head, head + part->group));
    const mfa_span positions = row_positions(&walk, mfa_span_of(first_row, first_row + rows));
    mfa_span left = mfa_span_of(split * part->split_keys, (split + 1) * part->split_keys);
    mfa_span keys = mfai_walk_next(&walk, positions, left, shape->block_keys);

    float *out = scratch + job->scratch.out, *row_max = scratch + job->scratch.row_max,
          *row_sum = scratch + job->scratch.row_sum;
    memset(out, 0, (size_t)(rows * width) * sizeof *out);
    memset(row_sum, 0, (size_t)rows * sizeof *row_sum);
    for (int64_t r = 0; r < rows; ++r)
        row_max[r] = -INFINITY;
    lane32 *query = scratch + job->scratch.query;
    memset(scratch + job->scratch.zeros, 0, (size_t)(job->scratch.size - job->scratch.zeros) * sizeof(float));
    const mfai_rows_room_t room = {.table = (const char **)(void *)(scratch + job->scratch.rows),
                                   .runs = (mfai_rows_run_t *)(void *)(scratch + job->scratch.runs),
                                   .copy = (char *)(scratch + job->scratch.copy),
                                   .zeros = (const char *)(scratch + job->scratch.zeros)};
    if (!mfa_span_is_empty(keys)) {
#if WORD_DEPTH == 4
        begin_head(job, &walk, kv_head, scratch);
#endif
        pack_query_rows(job, &walk, mfa_span_of(first_row, first_row + rows), scratch);
#if WORD_DEPTH == 1
        if (part->direct)
            split_queries(job, rows, query);
#endif
    }

    mfai_cpu_scales_t key_scales, value_scales;
    for (; !mfa_span_is_empty(keys); keys = mfai_walk_next(&walk, positions, left, shape->block_keys)) {
        left.begin = keys.end;
        bool packed = false;
        for (int64_t r = 0, some; r < rows; r += some) {
            some = sub_block_rows(part, first_row + r, first_row + rows);
            const block_t block = {
                .job = job,
                .walk = &walk,
                .direct = part->direct && WORD_DEPTH != 4,
                .direct_codes = part->direct && WORD_DEPTH == 4 && job->int8.in_place,
                .keys = keys,
                .kv_head = kv_head,
                .scale = scale,
                .first_row = first_row + r,
                .rows = (int)some,
                .at = r,
                .scratch = scratch,
                .query = query + r * words,
                .key_panels = scratch + job->scratch.keys,
                .value_panels = scratch + job->scratch.values,
                .room = room,
                .key_codes = scratch + job->scratch.key_codes,
                .value_codes = scratch + job->scratch.value_codes,
                .key_scales = &key_scales,
                .value_scales = &value_scales,
                .out = out + r * width,
                .row_max = row_max + r,
                .row_sum = row_sum + r,
                .scores = scratch + job->scratch.scores,
                .value_scores = scratch + job->scratch.value_scores,
                .bias = scratch + job->scratch.bias,
                .drop_factors = scratch + job->scratch.drop_factors,
                .stride = shape->block_keys,
            };
            attend_runs(&block, &packed);
        }
    }

#if WORD_DEPTH == 4
    if (left.begin > split * part->split_keys) /* some keys were visited */
        scale_sums(job, scratch, rows);
#endif
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = first_row + r;
        if (part->splits == 1) {
            finish_row(job, b, row_head(&walk, at), row_position(&walk, at), out + r * width, row_max[r], row_sum[r]);
            continue;
        }
        const int64_t partial_row = part->first_partial_row + (bh * part->rows + at) * part->splits + split;
        float *partial = job->partial + partial_row * (width + 2);
        memcpy(partial, out + r * width, (size_t)width * sizeof *partial);
        partial[width] = row_max[r];
        partial[width + 1] = row_sum[r];
    }
}

/* Adds the splits of MFAI_CPU_COMBINE_ROWS rows, in order. */
static void forward_combine(void *argument, int64_t task, int slot) {
    const mfai_cpu_forward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const int64_t width = job->shape.value_width;
    const mfai_cpu_forward_part_t *part =
        find_part(job, offsetof(mfai_cpu_forward_part_t, first_combined_row), task * MFAI_CPU_COMBINE_ROWS);
    float *sums = (float *)job->memory + slot * job->scratch.size + job->scratch.out;
    for (int64_t i = task * MFAI_CPU_COMBINE_ROWS; i < job->combined_rows && i < (task + 1) * MFAI_CPU_COMBINE_ROWS;
         ++i) {
        while (i - part->first_combined_row >= part->combined_rows)
            ++part;
        const int64_t at = i - part->first_combined_row, bh = at / part->rows, row = at % part->rows;
        const int64_t sets = p->heads / part->group, b = part->batch + bh / sets;
        const int64_t head = bh % sets * part->group + row % part->group;
        const float *partial = job->partial + (part->first_partial_row + at * part->splits) * (width + 2);
        float row_max = -INFINITY, row_sum = 0;
        for (int64_t s = 0; s < part->splits; ++s) {
            const float here = partial[s * (width + 2) + width];
            row_max = here > row_max ? here : row_max;
        }
        const float reference = row_max == -INFINITY ? 0 : row_max;
        memset(sums, 0, (size_t)width * sizeof *sums);
        for (int64_t s = 0; s < part->splits; ++s) {
            const float *part = partial + s * (width + 2);
            const float factor = exp2f((part[width] - reference) * job->max_to_log2);
            if (part[width] == -INFINITY && part[width + 1] == 0)
                continue; /* saw no key: nothing to add, and 0 * 0 is all that would be */
            row_sum += part[width + 1] * factor;
            for (int64_t c = 0; c < width; c += VL)
                vf_store(sums + c, vf_fma(vf_load(part + c), vf_set1(factor), vf_load(sums + c)));
        }
        finish_row(job, b, head, row / part->group, sums, row_max, row_sum);
    }
}

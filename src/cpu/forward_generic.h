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
    const mfai_forward_job_t *job;
    int64_t b, kv_head, first_row, first_key, key_count;
    int rows;
    const word *query;
    word *keys, *values;            /* room for them, filled by `attend` when packed */
    char *copy;                     /* room for rows whose elements lie apart */
    const char *zeros;              /* a row of them */
    float *out, *row_max, *row_sum; /* of the first row */
    float *scores, *bias, *keep;
    int64_t stride; /* of a row of scores or bias */
} block_t;

static void multiply_scores(const block_t *block, const ranges_t *seen) {
    const mfai_problem_t *p = block->job->problem;
    const int64_t words = block->job->shape.query_words, depth = words_of(p->head_dim);
    if (block->job->direct) {
        const rows_t keys =
            find_rows(&p->key, block->b, block->kv_head, block->first_key, seen->first, seen->last, block->copy);
        direct_scores(&keys, block->query, words, block->rows, seen->first, seen->last, block->scores, block->stride);
        return;
    }
    for (int64_t panel = seen->first / PANEL; panel * PANEL < seen->last; ++panel)
        for (int r = 0; r < block->rows; r += ROW_TILE)
            multiply_replace(block->rows - r < ROW_TILE ? block->rows - r : ROW_TILE,
                             panel_is_full(panel, block->key_count), block->query + r * words, words,
                             block->keys + panel * PANEL * words, depth,
                             block->scores + r * block->stride + panel * PANEL, block->stride, NULL);
}

/* Words of keys in one sum before it is added to the others: shorter sums round less. */
enum { SUM_WORDS = 128 };
static const float unchanged[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
_Static_assert(ROW_TILE <= 12, "a factor for each row of a tile");

#if WORD_DEPTH == 2
/* Values of a word of keys of which one is not seen: whatever that one holds must not meet its weight, 0. */
static void keep_half(const word *values, int64_t count, uint32_t mask, word *edge) {
    for (int64_t i = 0; i < count; ++i)
        edge[i] = mfai_bits_to_f32(mfai_f32_to_bits(values[i]) & mask);
}
#endif

/* out = out * correction + weights . values, for the keys from .. to - 1 that rows of the tile see. */
static void multiply_values(const block_t *block, int first, int rows, int64_t from, int64_t to,
                            const float *correction) {
    const mfai_problem_t *p = block->job->problem;
    const int64_t width = block->job->shape.value_width;
    float *out = block->out + first * width;
    const float *weights = block->scores + first * block->stride;
    if (block->job->direct) {
        const rows_t values = find_rows(&p->value, block->b, block->kv_head, block->first_key, from, to, block->copy);
        /* Nothing is packed, so the room for packed values, which is at least that large, holds the block's own sums. */
        float *sums = (float *)block->values;
        for (int r = 0; r < rows; r += DIRECT_ROWS) {
            const int some = rows - r < DIRECT_ROWS ? rows - r : DIRECT_ROWS;
            memset(sums, 0, (size_t)(some * width) * sizeof *sums);
            direct_values(&values, weights + r * block->stride, block->stride, some, from, to, sums, width);
            for (int i = 0; i < some; ++i)
                for (int64_t c = 0; c < width; c += VL) {
                    float *total = out + (r + i) * width + c;
                    vf_store(total, vf_fma(vf_load(total), vf_set1(correction[r + i]), vf_load(sums + i * width + c)));
                }
        }
        return;
    }
    const int64_t capacity = words_of(block->key_count);
    /* Words that rows of the tile see whole; what lies beyond the block's last key was packed as zeros. */
    const int64_t start = words_of(from), end = to == block->key_count ? capacity : to / WORD_DEPTH;
    for (int64_t panel = 0; panel * PANEL < p->value_dim; ++panel) {
        const bool full = panel_is_full(panel, p->value_dim);
        const int64_t panel_width = full ? PANEL : VL;
        const word *values = block->values + panel * PANEL * capacity;
        const float *factor = correction;
#if WORD_DEPTH == 2
        if (from % 2 != 0) {
            word edge[PANEL];
            keep_half(values + (start - 1) * panel_width, panel_width, 0xffff0000u, edge);
            multiply_rescale(rows, full, weights + start - 1, block->stride, edge, 1, out + panel * PANEL, width,
                             factor);
            factor = unchanged;
        }
#endif
        for (int64_t k = start; k < end; k += SUM_WORDS, factor = unchanged)
            multiply_rescale(rows, full, weights + k, block->stride, values + k * panel_width,
                             end - k < SUM_WORDS ? end - k : SUM_WORDS, out + panel * PANEL, width, factor);
#if WORD_DEPTH == 2
        if (end * WORD_DEPTH < to) {
            word edge[PANEL];
            keep_half(values + end * panel_width, panel_width, 0x0000ffffu, edge);
            multiply_rescale(rows, full, weights + end, block->stride, edge, 1, out + panel * PANEL, width, factor);
        }
#endif
    }
}

/* Scores in log2 from which on the exponent takes a step of its own: in one with the scaling, the largest score would miss the
   reference by what that was rounded by, which may be more than an exponent holds. */
#define LARGE_SCORE 0x1p12f

/* As row_weights, of what the products have left in `row`. */
static float weigh(const mfai_forward_job_t *job, float *row, int64_t begin, int64_t end, int64_t from, int64_t to,
                   float reference, const float *keep) {
    if (!job->score_pass && fabsf(reference) < LARGE_SCORE)
        return row_weights(job, false, row, begin, end, from, to, reference, keep);
    if (!job->score_pass)
        scale_row(job, row, begin, end);
    return row_weights(job, true, row, begin, end, from, to, reference, keep);
}

static void softmax_and_values(const block_t *block, const ranges_t *seen) {
    const mfai_forward_job_t *job = block->job;
    const mfai_problem_t *p = job->problem;
    float reference[SUB_ROWS + VL] = {0}, correction[SUB_ROWS + VL] = {0};
    for (int r = 0; r < block->rows; ++r) {
        float most = block->row_max[r];
        if (seen->begin[r] < seen->end[r]) {
            const float here =
                row_max(block->scores + r * block->stride, seen->begin[r], seen->end[r]) * job->score_factor;
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
        int64_t from = block->key_count, to = 0;
        for (int r = first; r < first + rows; ++r)
            if (seen->begin[r] < seen->end[r]) {
                from = seen->begin[r] < from ? seen->begin[r] : from;
                to = seen->end[r] > to ? seen->end[r] : to;
            }
        if (to == 0)
            continue;
        for (int r = first; r < first + rows; ++r) {
            float *row = block->scores + r * block->stride;
            const int64_t begin = seen->begin[r], end = seen->end[r], start = from / VL * VL;
            float *keep = NULL;
            if (job->dropout.on) {
                const int64_t at = block->first_row + r;
                keep = block->keep;
                fill_keep(&job->dropout, block->b, block->kv_head * p->group + at % p->group, at / p->group,
                          block->first_key + start, (to - start + VL - 1) / VL * VL, keep + start);
            }
            const float sum = weigh(job, row, begin, end, start, to, reference[r], keep);
            block->row_sum[r] = block->row_sum[r] * correction[r] + sum;
        }
        multiply_values(block, first, rows, from, to, correction + first);
    }
}

/* Packs keys and values on the first call for a block of keys. */
static void attend(const block_t *block, bool *packed) {
    const mfai_forward_job_t *job = block->job;
    const mfai_problem_t *p = job->problem;
    ranges_t seen;
    find_ranges(p, block->first_row, block->rows, block->first_key, block->key_count, &seen);
    unsigned bias = 0;
    if (job->has_bias && seen.first < seen.last)
        bias = fill_bias(p, block->b, block->kv_head, block->first_row, block->rows, block->first_key, block->stride,
                         &seen, block->bias);
    if (seen.first >= seen.last)
        return;
    if (!*packed && !job->direct) {
        const rows_t key_rows =
            find_rows(&p->key, block->b, block->kv_head, block->first_key, 0, block->key_count, block->copy);
        pack_keys(&key_rows, block->key_count, block->zeros, job->shape.query_words, block->keys);
        const rows_t value_rows =
            find_rows(&p->value, block->b, block->kv_head, block->first_key, 0, block->key_count, block->copy);
        pack_values(&value_rows, block->key_count, block->zeros, block->values);
        *packed = true;
    }
    multiply_scores(block, &seen);
    if (job->score_pass)
        for (int r = 0; r < block->rows; ++r)
            if (seen.begin[r] < seen.end[r])
                finish_scores(p, block->scores + r * block->stride,
                              bias & BIAS_ANY_NONZERO ? block->bias + r * block->stride : NULL, seen.begin[r],
                              seen.end[r]);
    softmax_and_values(block, &seen);
}

/* Divides by the sum, with the sink in it, and writes out and logsumexp. */
static void finish_row(const mfai_forward_job_t *job, int64_t b, int64_t head, int64_t row, const float *sums,
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
    store_row(sums, p->value_dim, row_sum == 0 ? 0 : factor / row_sum, view_row(&p->out, b, head, row), p->out.format,
              p->out.stride[3]);
    if (p->logsumexp.present) {
        float *logsumexp = (float *)view_row(&p->logsumexp, b, head, row);
        *logsumexp = row_sum == 0 ? -INFINITY : most + logf(row_sum);
    }
}

static void forward_task(void *argument, int64_t task, int slot) {
    const mfai_forward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_forward_shape_t *shape = &job->shape;
    float *scratch = (float *)job->scratch + slot * job->at.size;

    /* Tasks of one head follow each other, so that its keys stay in cache, and the costliest causal rows, the last, come first. */
    const int64_t split = task % shape->splits, bh = task / shape->splits / shape->chunks;
    const int64_t chunk = shape->chunks - 1 - task / shape->splits % shape->chunks;
    const int64_t b = bh / p->kv_heads, kv_head = bh % p->kv_heads;
    const int64_t first_row = chunk * shape->chunk_rows;
    const int64_t rows = shape->rows - first_row < shape->chunk_rows ? shape->rows - first_row : shape->chunk_rows;
    const int64_t words = shape->query_words, width = shape->value_width;

    int64_t begin = mfa_rule_key_begin(first_row / p->group, p->offset, p->window_left, p->key_count);
    int64_t end = mfa_rule_key_end((first_row + rows - 1) / p->group, p->offset, p->window_right, p->key_count);
    if (shape->splits > 1) {
        begin = begin > split * shape->split_keys ? begin : split * shape->split_keys;
        end = end < (split + 1) * shape->split_keys ? end : (split + 1) * shape->split_keys;
    }

    float *out = scratch + job->at.out, *row_max = scratch + job->at.row_max, *row_sum = scratch + job->at.row_sum;
    memset(out, 0, (size_t)(rows * width) * sizeof *out);
    memset(row_sum, 0, (size_t)rows * sizeof *row_sum);
    for (int64_t r = 0; r < rows; ++r)
        row_max[r] = -INFINITY;
    word *query = scratch + job->at.query;
    memset(scratch + job->at.zeros, 0, (size_t)(job->at.size - job->at.zeros) * sizeof(float));
    if (begin < end)
        pack_queries(job, b, kv_head, first_row, rows, (char *)(scratch + job->at.copy), query);

    for (int64_t first_key = begin; first_key < end; first_key += shape->block_keys) {
        bool packed = false;
        for (int64_t r = 0; r < rows; r += SUB_ROWS) {
            const block_t block = {
                .job = job,
                .b = b,
                .kv_head = kv_head,
                .first_row = first_row + r,
                .first_key = first_key,
                .key_count = end - first_key < shape->block_keys ? end - first_key : shape->block_keys,
                .rows = (int)(rows - r < SUB_ROWS ? rows - r : SUB_ROWS),
                .query = query + r * words,
                .keys = scratch + job->at.keys,
                .values = scratch + job->at.values,
                .copy = (char *)(scratch + job->at.copy),
                .zeros = (char *)(scratch + job->at.zeros),
                .out = out + r * width,
                .row_max = row_max + r,
                .row_sum = row_sum + r,
                .scores = scratch + job->at.scores,
                .bias = scratch + job->at.bias,
                .keep = scratch + job->at.keep,
                .stride = shape->block_keys,
            };
            attend(&block, &packed);
        }
    }

    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = first_row + r;
        if (shape->splits == 1) {
            finish_row(job, b, kv_head * p->group + at % p->group, at / p->group, out + r * width, row_max[r],
                       row_sum[r]);
            continue;
        }
        float *partial = job->partial + ((bh * shape->rows + at) * shape->splits + split) * (width + 2);
        memcpy(partial, out + r * width, (size_t)width * sizeof *partial);
        partial[width] = row_max[r];
        partial[width + 1] = row_sum[r];
    }
}

/* Adds the splits of MFAI_COMBINE_ROWS rows, in order. */
static void forward_combine(void *argument, int64_t task, int slot) {
    const mfai_forward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_forward_shape_t *shape = &job->shape;
    const int64_t width = shape->value_width, total = p->batch * p->kv_heads * shape->rows;
    float *sums = (float *)job->scratch + slot * job->at.size + job->at.out;
    for (int64_t at = task * MFAI_COMBINE_ROWS; at < total && at < (task + 1) * MFAI_COMBINE_ROWS; ++at) {
        const float *partial = job->partial + at * shape->splits * (width + 2);
        float row_max = -INFINITY, row_sum = 0;
        for (int64_t s = 0; s < shape->splits; ++s) {
            const float here = partial[s * (width + 2) + width];
            row_max = here > row_max ? here : row_max;
        }
        const float reference = row_max == -INFINITY ? 0 : row_max;
        memset(sums, 0, (size_t)width * sizeof *sums);
        for (int64_t s = 0; s < shape->splits; ++s) {
            const float *part = partial + s * (width + 2);
            const float factor = exp2f((part[width] - reference) * job->max_to_log2);
            if (part[width] == -INFINITY && part[width + 1] == 0)
                continue; /* saw no key: nothing to add, and 0 * 0 is all that would be */
            row_sum += part[width + 1] * factor;
            for (int64_t c = 0; c < width; c += VL)
                vf_store(sums + c, vf_fma(vf_load(part + c), vf_set1(factor), vf_load(sums + c)));
        }
        const int64_t bh = at / shape->rows, row = at % shape->rows;
        const int64_t b = bh / p->kv_heads, head = bh % p->kv_heads * p->group + row % p->group;
        finish_row(job, b, head, row / p->group, sums, row_max, row_sum);
    }
}

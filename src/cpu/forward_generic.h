/*
 * The forward pass, once for every ISA and every kind of word. The including file defines
 *   NAME(x)           x with the instance's suffix
 *   WORD_DEPTH        elements in a 32-bit word: 1 (float32) or 2 (bfloat16 pairs)
 *   WORD_FMA(c, a, b) c + a . b, lane by lane over words
 *   STORE_WEIGHTS(row, i, x)  stores softmax weights i .. i + VL - 1 of a row as words
 *   ROW_TILE, PANEL_VECS  register tile: rows, and vectors of columns
 *
 * One task is a chunk of the query rows that share a key/value head, and a range of keys:
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

enum { NAME(PANEL) = PANEL_VECS * VL };
#define PANEL NAME(PANEL)
#define SUB_ROWS (2 * ROW_TILE)

typedef float __attribute__((may_alias)) NAME(word);
#define word NAME(word)

/* c (rows x vecs * VL) = [c * rescale +] a (rows x depth words) . b (depth x vecs * VL, packed) */
INLINE void NAME(multiply_tile)(const int rows, const int vecs, const word *a, int64_t a_stride, const word *b,
                                int64_t depth, float *c, int64_t c_stride, const float *rescale) {
    vf sum[ROW_TILE][PANEL_VECS];
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            sum[r][v] = rescale ? vf_mul(vf_load(c + r * c_stride + v * VL), vf_set1(rescale[r])) : vf_zero();
    for (int64_t k = 0; k < depth; ++k) {
        vf column[PANEL_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            column[v] = vf_load(b + (k * vecs + v) * VL);
#pragma GCC unroll 32
        for (int r = 0; r < rows; ++r) {
            vf broadcast = vf_set1(a[r * a_stride + k]);
#pragma GCC unroll 4
            for (int v = 0; v < vecs; ++v)
                sum[r][v] = WORD_FMA(sum[r][v], broadcast, column[v]);
        }
    }
#pragma GCC unroll 32
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < vecs; ++v)
            vf_store(c + r * c_stride + v * VL, sum[r][v]);
}

#define MULTIPLY_ROWS(n)                                                                         \
    case n:                                                                                      \
        if (n <= ROW_TILE) {                                                                     \
            if (full)                                                                            \
                NAME(multiply_tile)(n, PANEL_VECS, a, a_stride, b, depth, c, c_stride, rescale); \
            else                                                                                 \
                NAME(multiply_tile)(n, 1, a, a_stride, b, depth, c, c_stride, rescale);          \
        }                                                                                        \
        return;

#define DEFINE_MULTIPLY(name, RESCALE)                                                                         \
    static void NAME(name)(int rows, bool full, const word *a, int64_t a_stride, const word *b, int64_t depth, \
                           float *c, int64_t c_stride RESCALE) {                                               \
        switch (rows) {                                                                                        \
            MULTIPLY_ROWS(1)                                                                                   \
            MULTIPLY_ROWS(2)                                                                                   \
            MULTIPLY_ROWS(3)                                                                                   \
            MULTIPLY_ROWS(4)                                                                                   \
            MULTIPLY_ROWS(5)                                                                                   \
            MULTIPLY_ROWS(6)                                                                                   \
            MULTIPLY_ROWS(7)                                                                                   \
            MULTIPLY_ROWS(8)                                                                                   \
            MULTIPLY_ROWS(9)                                                                                   \
            MULTIPLY_ROWS(10)                                                                                  \
            MULTIPLY_ROWS(11)                                                                                  \
            MULTIPLY_ROWS(12)                                                                                  \
        }                                                                                                      \
    }

#define RESCALE_ARGUMENT , const float *rescale
DEFINE_MULTIPLY(multiply_add, RESCALE_ARGUMENT)
#define rescale ((const float *)NULL)
DEFINE_MULTIPLY(multiply, )
#undef rescale
#undef RESCALE_ARGUMENT
#undef DEFINE_MULTIPLY
#undef MULTIPLY_ROWS

/* A row of `count` elements as words, padded with zeros to whole vectors. */
static void NAME(load_words)(const void *source, const mfai_view_t *view, int64_t count, word *row) {
#if WORD_DEPTH == 1
    load_row_f32(source, view->precision, view->stride[3], count, (float *)row);
#else
    int64_t padded = (count + 2 * VL - 1) / (2 * VL) * (2 * VL);
    if (view->stride[3] == 1)
        memcpy(row, source, (size_t)count * sizeof(uint16_t));
    else
        gather_halves(source, view->stride[3], count, (uint16_t *)row);
    memset((uint16_t *)row + count, 0, (size_t)(padded - count) * sizeof(uint16_t));
#endif
}

static void NAME(pack_queries)(const mfai_forward_job_t *job, int64_t b, int64_t kv_head, int64_t first, int64_t rows,
                               word *packed) {
    const mfai_problem_t *p = job->problem;
    const int64_t words = job->shape.query_words;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = first + r, head = kv_head * p->group + at % p->group;
        word *row = packed + r * words;
        NAME(load_words)(view_row(&p->query, b, head, at / p->group), &p->query, p->head_dim, row);
        if (job->negate_query) {
            const uint32_t signs = WORD_DEPTH == 1 ? 0x80000000u : 0x80008000u;
            for (int64_t i = 0; i < words; ++i)
                row[i] = mfai_bits_to_f32(mfai_f32_to_bits(row[i]) ^ signs);
        }
    }
}

/* Columns in panel `index` of `columns` in all: a last panel of up to VL columns is one vector wide. */
INLINE bool NAME(panel_is_full)(int64_t index, int64_t columns) {
    return columns - index * PANEL > VL || PANEL_VECS == 1;
}

/* Keys as columns: panel after panel, each query_words deep. */
static void NAME(pack_keys)(const mfai_forward_job_t *job, int64_t b, int64_t kv_head, int64_t first, int64_t count,
                            word *staging, word *packed) {
    const mfai_view_t *key = &job->problem->key;
    const int64_t words = job->shape.query_words;
    for (int64_t j = 0; j < count; j += VL) {
        const int64_t panel = j / PANEL;
        const int width = NAME(panel_is_full)(panel, count) ? PANEL : VL;
        word *columns = packed + panel * PANEL * words + j % PANEL;
        for (int64_t i = 0; i < VL; ++i) {
            if (j + i < count)
                NAME(load_words)(view_row(key, b, kv_head, first + j + i), key, job->problem->head_dim,
                                 staging + i * words);
            else
                memset(staging + i * words, 0, (size_t)words * sizeof *staging);
        }
        const int64_t used = (job->problem->head_dim + WORD_DEPTH - 1) / WORD_DEPTH;
        for (int64_t k = 0; k < used; k += VL) {
            vf rows[VL];
#pragma GCC unroll 16
            for (int i = 0; i < VL; ++i)
                rows[i] = vf_load(staging + i * words + k);
            vf_transpose(rows);
            for (int i = 0; i < VL && k + i < used; ++i)
                vf_store(columns + (k + i) * width, rows[i]);
        }
        /* The second half of a full panel may have no key at all. */
        if (width == PANEL && j % PANEL + VL < PANEL && j + VL >= count)
            for (int64_t k = 0; k < used; ++k)
                for (int64_t at = j % PANEL + VL; at < PANEL; at += VL)
                    vf_store(packed + panel * PANEL * words + k * PANEL + at, vf_zero());
    }
}

/* Values: panels of columns, each as deep as the block has words of keys. */
static void NAME(pack_values)(const mfai_forward_job_t *job, int64_t b, int64_t kv_head, int64_t first, int64_t count,
                              word *staging, word *packed) {
    const mfai_view_t *value = &job->problem->value;
    const int64_t columns = job->problem->value_dim, depth = (count + WORD_DEPTH - 1) / WORD_DEPTH;
    for (int64_t k = 0; k < depth; ++k) {
#if WORD_DEPTH == 1
        const void *row = view_row(value, b, kv_head, first + k);
        if (value->stride[3] != 1 && columns > 1) {
            load_row_f32(row, value->precision, value->stride[3], columns, (float *)staging);
            row = staging;
        }
        const int32_t precision = row == staging ? MFA_PRECISION_FP32 : value->precision;
#else
        const int64_t line = (columns + 2 * VL - 1) / (2 * VL) * (2 * VL);
        const uint16_t *pair[2];
        for (int i = 0; i < 2; ++i) {
            uint16_t *staged = (uint16_t *)staging + i * line;
            const int64_t at = 2 * k + i;
            pair[i] = at < count ? (const uint16_t *)view_row(value, b, kv_head, first + at) : staged;
            if (at >= count)
                memset(staged, 0, (size_t)columns * sizeof *staged);
            else if (value->stride[3] != 1 && columns > 1) {
                gather_halves(pair[i], value->stride[3], columns, staged);
                pair[i] = staged;
            }
        }
#endif
        for (int64_t c = 0; c < columns; c += VL) {
            const int64_t panel = c / PANEL;
            const int width = NAME(panel_is_full)(panel, columns) ? PANEL : VL;
            const int n = (int)(columns - c < VL ? columns - c : VL);
            word *target = packed + panel * PANEL * depth + k * width + c % PANEL;
#if WORD_DEPTH == 1
            vf_store(target, load_converted(row, precision, c, n));
#else
            vf_store(target, vf_pair_halves(pair[0] + c, pair[1] + c, n));
#endif
            if (width == PANEL && c % PANEL + VL < PANEL && c + VL >= columns)
                for (int64_t at = VL; c % PANEL + at < PANEL; at += VL)
                    vf_store(target + at, vf_zero());
        }
    }
}

/* The keys that each row of a sub-block sees, counted from the start of the key block; empty if end <= begin. */
typedef struct {
    int64_t begin[SUB_ROWS], end[SUB_ROWS];
    int64_t first, last; /* over all rows */
} NAME(ranges);

static void NAME(find_ranges)(const mfai_problem_t *p, int64_t first_row, int rows, int64_t first_key, int64_t keys,
                              NAME(ranges) * seen) {
    seen->first = keys;
    seen->last = 0;
    for (int r = 0; r < rows; ++r) {
        const int64_t row = (first_row + r) / p->group;
        int64_t begin = mfa_rule_key_begin(row, p->offset, p->window_left, p->key_count) - first_key;
        int64_t end = mfa_rule_key_end(row, p->offset, p->window_right, p->key_count) - first_key;
        begin = begin > 0 ? begin : 0;
        end = end < keys ? end : keys;
        if (end <= begin)
            begin = end = 0;
        else {
            seen->first = begin < seen->first ? begin : seen->first;
            seen->last = end > seen->last ? end : seen->last;
        }
        seen->begin[r] = begin;
        seen->end[r] = end;
    }
}

/* Fills the biases of a sub-block and narrows ranges of rows that see nothing. Returns BIAS_ANY_... bits of all rows. */
static unsigned NAME(fill_bias)(const mfai_problem_t *p, int64_t b, int64_t kv_head, int64_t first_row, int rows,
                                int64_t first_key, int64_t stride, NAME(ranges) * seen, float *bias) {
    unsigned all = 0;
    seen->first = stride;
    seen->last = 0;
    for (int r = 0; r < rows; ++r) {
        if (seen->end[r] <= seen->begin[r])
            continue;
        const int64_t at = first_row + r, begin = seen->begin[r], end = seen->end[r];
        unsigned found = fill_bias_row(p, b, kv_head * p->group + at % p->group, at / p->group, first_key + begin,
                                       end - begin, bias + r * stride + begin);
        all |= found;
        if (!(found & BIAS_ANY_VISIBLE)) {
            seen->begin[r] = seen->end[r] = 0;
            continue;
        }
        seen->first = begin < seen->first ? begin : seen->first;
        seen->last = end > seen->last ? end : seen->last;
    }
    return all;
}

INLINE vf NAME(tanh)(vf x) {
    const vf magnitude = vf_abs(x), square = vf_mul(x, x);
    vf small = vf_fma(vf_set1(TANH_C4), square, vf_set1(TANH_C3));
    small = vf_fma(small, square, vf_set1(TANH_C2));
    small = vf_fma(small, square, vf_set1(TANH_C1));
    small = vf_fma(small, square, vf_set1(TANH_C0));
    small = vf_fma(vf_mul(small, square), x, x);
    /* 1 - 2 / (e^(2|x|) + 1); at 10 it is 1 in float32, and beyond nothing may overflow. */
    const vf bounded = vf_select_less(vf_set1(10), magnitude, vf_set1(10), magnitude);
    const vf power = vf_exp2(vf_mul(bounded, vf_set1(2 * LOG2_E)));
    const vf large = vf_sub(vf_set1(1), vf_div(vf_set1(2), vf_add(power, vf_set1(1))));
    return vf_select_less(magnitude, vf_set1(0.625f), small, vf_copysign(large, x));
}

/* Raw products to scores in units of log2. */
static void NAME(finish_scores)(const mfai_problem_t *p, float *scores, const float *bias, int64_t begin, int64_t end) {
    const vf scale = vf_set1(p->softmax_scale), cap = vf_set1(p->softcap), inverse_cap = vf_set1(1 / p->softcap);
    const vf to_log2 = vf_set1(LOG2_E), hidden = vf_set1(-INFINITY);
    for (int64_t j = begin / VL * VL; j < end; j += VL) {
        vf x = vf_mul(vf_load(scores + j), scale);
        if (p->softcap > 0)
            x = vf_mul(NAME(tanh)(vf_mul(x, inverse_cap)), cap);
        if (bias) {
            const vf added = vf_load(bias + j);
            x = vf_select_equal(added, hidden, hidden, vf_add(x, added));
        }
        vf_store(scores + j, vf_mul(x, to_log2));
    }
}

/* Hides what lies outside begin .. end in the edge vectors and returns the largest score, -inf if there is none. */
static float NAME(row_max)(float *scores, int64_t begin, int64_t end) {
    const int64_t first = begin / VL * VL, last = (end - 1) / VL * VL;
    if (begin > first || end < last + VL) {
        vf_store(scores + first, vf_hide_outside(vf_load(scores + first), begin - first, end - first));
        if (last > first)
            vf_store(scores + last, vf_hide_outside(vf_load(scores + last), 0, end - last));
    }
    vf most = vf_load(scores + first);
    for (int64_t j = first + VL; j <= last; j += VL)
        most = vf_max(most, vf_load(scores + j));
    return vf_hmax(most);
}

/* Replaces scores by weights exp2(score * log2_scale - reference), zero from `from` to `begin` and from `end` to `to`; returns
   their sum. */
static float NAME(row_weights)(float *row, int64_t begin, int64_t end, int64_t from, int64_t to, float log2_scale,
                               float reference) {
    const vf scale = vf_set1(log2_scale), shift = vf_set1(-reference);
    const int64_t first = begin < end ? begin / VL * VL : from, last = begin < end ? (end - 1) / VL * VL + VL : from;
    vf sum = vf_zero();
    for (int64_t j = from; j < first; j += VL)
        STORE_WEIGHTS(row, j, vf_zero());
    for (int64_t j = first; j < last; j += VL) {
        vf weight = vf_exp2(vf_fma(vf_load(row + j), scale, shift));
        sum = vf_add(sum, weight);
        STORE_WEIGHTS(row, j, weight);
    }
    for (int64_t j = last; j < to; j += VL)
        STORE_WEIGHTS(row, j, vf_zero());
    return vf_hsum(sum);
}

typedef struct {
    const word *query, *keys, *values;
    float *out, *row_max, *row_sum; /* of the sub-block's first row */
    float *scores, *bias;
    int64_t keys_count, stride; /* of the block; of a row of scores */
} NAME(block);

static void NAME(multiply_scores)(const mfai_forward_job_t *job, const NAME(block) * block, int rows,
                                  const NAME(ranges) * seen) {
    const int64_t words = job->shape.query_words, depth = (job->problem->head_dim + WORD_DEPTH - 1) / WORD_DEPTH;
    for (int64_t panel = seen->first / PANEL; panel * PANEL < seen->last; ++panel)
        for (int r = 0; r < rows; r += ROW_TILE)
            NAME(multiply)(rows - r < ROW_TILE ? rows - r : ROW_TILE, NAME(panel_is_full)(panel, block->keys_count),
                           block->query + r * words, words, block->keys + panel * PANEL * words, depth,
                           block->scores + r * block->stride + panel * PANEL, block->stride);
}

/* out = out * correction + weights . values, for the keys that the tile's rows see. */
static void NAME(multiply_values)(const mfai_forward_job_t *job, const NAME(block) * block, int first, int rows,
                                  int64_t from, int64_t to, const float *correction) {
    const int64_t columns = job->problem->value_dim, width = job->shape.value_width;
    const int64_t capacity = (block->keys_count + WORD_DEPTH - 1) / WORD_DEPTH;
    const int64_t start = from / WORD_DEPTH, depth = (to + WORD_DEPTH - 1) / WORD_DEPTH - start;
    for (int64_t panel = 0; panel * PANEL < columns; ++panel) {
        const bool full = NAME(panel_is_full)(panel, columns);
        const word *values = block->values + panel * PANEL * capacity + start * (full ? PANEL : VL);
        NAME(multiply_add)(rows, full, block->scores + first * block->stride + start, block->stride, values, depth,
                           block->out + first * width + panel * PANEL, width, correction);
    }
}

static void NAME(softmax_and_values)(const mfai_forward_job_t *job, const NAME(block) * block, int rows,
                                     const NAME(ranges) * seen) {
    float reference[SUB_ROWS + VL], correction[SUB_ROWS + VL];
    for (int r = 0; r < rows; ++r) {
        float most = block->row_max[r];
        if (seen->begin[r] < seen->end[r]) {
            const float here =
                NAME(row_max)(block->scores + r * block->stride, seen->begin[r], seen->end[r]) * job->log2_scale;
            most = here > most ? here : most;
        }
        reference[r] = most == -INFINITY ? 0 : most; /* so that -inf - reference is -inf, not NaN */
        correction[r] = block->row_max[r];
        block->row_max[r] = most;
    }
    for (int r = 0; r < rows; r += VL)
        vf_store(correction + r, vf_exp2(vf_sub(vf_load(correction + r), vf_load(reference + r))));
    for (int first = 0; first < rows; first += ROW_TILE) {
        const int count = rows - first < ROW_TILE ? rows - first : ROW_TILE;
        int64_t from = block->keys_count, to = 0;
        for (int r = first; r < first + count; ++r)
            if (seen->begin[r] < seen->end[r]) {
                from = seen->begin[r] < from ? seen->begin[r] : from;
                to = seen->end[r] > to ? seen->end[r] : to;
            }
        if (to == 0)
            continue;
        from = from / VL * VL;
        for (int r = first; r < first + count; ++r) {
            const float sum = NAME(row_weights)(block->scores + r * block->stride, seen->begin[r], seen->end[r], from,
                                                to, job->log2_scale, reference[r]);
            block->row_sum[r] = block->row_sum[r] * correction[r] + sum;
        }
        NAME(multiply_values)(job, block, first, count, from, to, correction + first);
    }
}

/* Divides by the sum, with the sink in it, and writes out and logsumexp. */
static void NAME(finish_row)(const mfai_problem_t *p, int64_t b, int64_t head, int64_t row, const float *sums,
                             float row_max, float row_sum) {
    float factor = 1;
    if (p->sinks.present) {
        const float sink = ((const float *)p->sinks.data)[head * p->sinks.stride[1]] * LOG2_E;
        const float most = sink > row_max ? sink : row_max;
        if (most != -INFINITY) {
            factor = exp2f(row_max - most);
            row_sum = row_sum * factor + exp2f(sink - most);
            row_max = most;
        }
    }
    store_row(sums, p->value_dim, row_sum == 0 ? 0 : factor / row_sum, view_row(&p->out, b, head, row),
              p->out.precision, p->out.stride[3]);
    if (p->logsumexp.present) {
        float *logsumexp = (float *)view_row(&p->logsumexp, b, head, row);
        *logsumexp = row_sum == 0 ? -INFINITY : row_max * LN_2 + logf(row_sum);
    }
}

static void NAME(forward_task)(void *argument, int64_t task, int slot) {
    const mfai_forward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_forward_shape_t *shape = &job->shape;
    float *scratch = (float *)job->scratch + slot * job->at.size;

    const int64_t split = task % shape->splits, heads = p->batch * p->kv_heads;
    const int64_t bh = task / shape->splits % heads;
    const int64_t chunk = shape->chunks - 1 - task / shape->splits / heads; /* causal rows are costliest at the end */
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
    begin = begin / PANEL * PANEL;

    float *out = scratch + job->at.out, *row_max = scratch + job->at.row_max, *row_sum = scratch + job->at.row_sum;
    memset(out, 0, (size_t)(rows * width) * sizeof *out);
    memset(row_sum, 0, (size_t)rows * sizeof *row_sum);
    for (int64_t r = 0; r < rows; ++r)
        row_max[r] = -INFINITY;
    word *query = scratch + job->at.query, *keys = scratch + job->at.keys, *values = scratch + job->at.values;
    if (begin < end)
        NAME(pack_queries)(job, b, kv_head, first_row, rows, query);

    for (int64_t first_key = begin; first_key < end; first_key += shape->block_keys) {
        const int64_t count = end - first_key < shape->block_keys ? end - first_key : shape->block_keys;
        bool packed = false;
        for (int64_t r = 0; r < rows; r += SUB_ROWS) {
            const int sub_rows = (int)(rows - r < SUB_ROWS ? rows - r : SUB_ROWS);
            NAME(block)
            block = {.query = query + r * words,
                     .keys = keys,
                     .values = values,
                     .out = out + r * width,
                     .row_max = row_max + r,
                     .row_sum = row_sum + r,
                     .scores = scratch + job->at.scores,
                     .bias = scratch + job->at.bias,
                     .keys_count = count,
                     .stride = shape->block_keys};
            NAME(ranges) seen;
            NAME(find_ranges)(p, first_row + r, sub_rows, first_key, count, &seen);
            unsigned bias = 0;
            if (job->has_bias && seen.first < seen.last)
                bias =
                    NAME(fill_bias)(p, b, kv_head, first_row + r, sub_rows, first_key, block.stride, &seen, block.bias);
            if (seen.first >= seen.last)
                continue;
            if (!packed) {
                NAME(pack_keys)(job, b, kv_head, first_key, count, scratch + job->at.staging, keys);
                NAME(pack_values)(job, b, kv_head, first_key, count, scratch + job->at.staging, values);
                packed = true;
            }
            NAME(multiply_scores)(job, &block, sub_rows, &seen);
            if (job->score_pass)
                for (int i = 0; i < sub_rows; ++i)
                    if (seen.begin[i] < seen.end[i])
                        NAME(finish_scores)(p, block.scores + i * block.stride,
                                            bias & BIAS_ANY_NONZERO ? block.bias + i * block.stride : NULL,
                                            seen.begin[i], seen.end[i]);
            NAME(softmax_and_values)(job, &block, sub_rows, &seen);
        }
    }

    for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = first_row + r;
        if (shape->splits == 1) {
            NAME(finish_row)(p, b, kv_head * p->group + at % p->group, at / p->group, out + r * width, row_max[r],
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
static void NAME(forward_combine)(void *argument, int64_t task, int slot) {
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
            const float factor = exp2f(part[width] - reference);
            if (part[width] == -INFINITY && part[width + 1] == 0)
                continue; /* saw no key: nothing to add, and 0 * 0 is all that would be */
            row_sum += part[width + 1] * factor;
            for (int64_t c = 0; c < width; c += VL)
                vf_store(sums + c, vf_fma(vf_load(part + c), vf_set1(factor), vf_load(sums + c)));
        }
        const int64_t bh = at / shape->rows, row = at % shape->rows;
        const int64_t b = bh / p->kv_heads, head = bh % p->kv_heads * p->group + row % p->group;
        NAME(finish_row)(p, b, head, row / p->group, sums, row_max, row_sum);
    }
}

extern const mfai_forward_kernel_t NAME(mfai_forward);
const mfai_forward_kernel_t NAME(mfai_forward) = {
    .name = KERNEL_NAME,
    .tile = {.lanes = VL, .panel = PANEL, .sub_rows = SUB_ROWS, .word_depth = WORD_DEPTH},
    .task = NAME(forward_task),
    .combine = NAME(forward_combine),
};

#undef word
#undef PANEL
#undef SUB_ROWS
#undef NAME
#undef WORD_DEPTH
#undef WORD_FMA
#undef STORE_WEIGHTS
#undef ROW_TILE
#undef PANEL_VECS
#undef KERNEL_NAME

/*
 * The backward pass. One task is a block of keys of one key/value head:
 *
 *   pack its keys and values
 *   for each query head of the group, for each block of rows that sees some of the keys:
 *     scores = queries . keys, dscores = dout . values       (register tiles; only panels that rows see)
 *     weights and gradients of the scores                    (gradient_generic.h)
 *     dvalue += weights^T . dout, dkey += gradients^T . queries
 *     wait for the blocks of keys before, dquery += gradients . keys
 *   write dkey and dvalue
 *
 * The right sides of the last three products hold zeros for what is not finite, so that pairs which do not see each
 * other, whose weight and gradient are 0, add nothing. Pairs that do see it have NaN on the left side, unless its score
 * is -inf.
 *
 * Keys outer, queries inner: FlashAttention-2 (Dao, 2023). Sums into dquery come in the order of the keys, whoever
 * computes them, so that results have the same bits for any number of threads.
 */

/* A block of keys, packed when the first row that sees it turns up, and the rows that meet it, packed likewise; these
   go through one run of the keys after the other. */
typedef struct {
    const mfai_cpu_backward_job_t *job;
    float *scratch;
    mfai_walk_t walk; /* of one head */
    mfai_cpu_backward_sequence_t sequence;
    int64_t kv_head, first_key, keys;
    bool packed;
    int64_t head, first_row, rows;
    bool rows_packed;
    mfa_span run;                          /* keys that some of the rows may see */
    mfa_span part;                         /* of the panels that the run lies in, counted from first_key on */
    mfa_span seen[MFAI_CPU_BACKWARD_ROWS]; /* keys of the run that each row sees, from first_key on */
    mfa_span words[MFAI_CPU_BACKWARD_ROWS / ROW_TILE]; /* of keys that rows of each register tile see */
    bool whole;                                        /* each row sees all of them */
    uint8_t found[MFAI_CPU_BACKWARD_ROWS];             /* BIAS_ANY_... bits of each row */
} backward_tile_t;

static mfa_span rows_of_tile(const backward_tile_t *t) { return mfa_span_of(t->first_row, t->first_row + t->rows); }
static mfa_span keys_of_tile(const backward_tile_t *t) { return mfa_span_of(t->first_key, t->first_key + t->keys); }

/* How many there are of the block of rows or keys that begins at the tile's first: few or none at the end. */
static int64_t rows_of_block(const backward_tile_t *t) {
    const int64_t left = t->sequence.queries - t->first_row, most = t->job->shape.block_rows;
    return left < most ? left : most;
}
static int64_t keys_of_block(const backward_tile_t *t) {
    const int64_t left = t->sequence.keys - t->first_key, most = t->job->shape.block_keys;
    return left < most ? left : most;
}

static mfai_rows_room_t room_of(const backward_tile_t *t) {
    const mfai_cpu_backward_scratch_t *at = &t->job->scratch;
    return (mfai_rows_room_t){.table = (const char **)(void *)(t->scratch + at->rows),
                              .copy = (char *)(t->scratch + at->copy),
                              .zeros = (const char *)(t->scratch + at->zeros)};
}

/* Keys or values, or what their codes stand for. */
static mfai_rows_t find_keys(const backward_tile_t *t, const mfai_view_t *view,
                             const mfai_quantization_t *quantization) {
    const mfai_rows_room_t room = room_of(t);
    return find_real_rows(view, quantization, t->sequence.batch, t->kv_head, t->first_key, t->keys, &room,
                          t->job->shape.block_keys, t->scratch + t->job->scratch.codes);
}

/* Rows of another format as bfloat16, where that is what words are made of; they may be in the room's copy. */
static mfai_rows_t round_rows(const mfai_rows_t *rows, const mfai_rows_room_t *room) {
    mfai_rows_t rounded = *rows;
    rounded.format = REAL_FORMAT;
    rounded.ahead = 0;
    for (int64_t j = 0; j < rows->count; ++j) {
        char *to = room->copy + j * mfai_format_bytes(REAL_FORMAT, rows->columns);
#define ROUND(format)                                                                       \
    for (int64_t k = 0; k < rows->columns; k += VL) {                                       \
        const int n = rows->columns - k < VL ? (int)(rows->columns - k) : VL;               \
        store_converted(to, REAL_FORMAT, k, load_converted(rows->row[j], format, k, n), n); \
    }
        WITH_FORMAT(rows->format, ROUND)
#undef ROUND
        room->table[j] = to;
    }
    return rounded;
}

static mfai_rows_t find_queries(const backward_tile_t *t, const mfai_view_t *view) {
    const mfai_rows_room_t room = room_of(t);
    const mfai_rows_t rows = mfai_rows_find(view, t->sequence.batch, t->head, t->first_row, t->rows, &room);
    return WORD_DEPTH == 1 || rows.format == REAL_FORMAT ? rows : round_rows(&rows, &room);
}

/* Rows as the left side of a product: each padded with zeros to whole vectors. */
INLINE void pack_rows_as(const int32_t format, const mfai_rows_t *rows, int64_t words, lane32 *packed) {
    for (int64_t r = 0; r < rows->count; ++r)
        for (int64_t k = 0; k < words; k += VL)
            vf_store(packed + r * words + k, load_words(rows->row[r], format, k, rows->columns));
}

static void pack_rows(const mfai_rows_t *rows, int64_t words, lane32 *packed) {
#define PACK(format) pack_rows_as(format, rows, words, packed)
    WITH_WORD_FORMAT(rows->format, PACK)
#undef PACK
}

static void pack_key_block(backward_tile_t *t) {
    const mfai_cpu_backward_job_t *job = t->job;
    if (t->packed)
        return;
    const mfai_problem_t *p = job->problem;
    const mfai_rows_t keys = find_keys(t, &p->key, &p->key_quantization);
    pack_keys(&keys, job->shape.query_words, 0, t->scratch + job->scratch.key_columns);
    if (!job->bias_pass)
        pack_finite_values(&keys, t->scratch + job->scratch.key_panels);
    const mfai_rows_t values = find_keys(t, &p->value, &p->value_quantization);
    pack_keys(&values, job->shape.value_words, 0, t->scratch + job->scratch.value_columns);
    t->packed = true;
}

static void pack_row_block(backward_tile_t *t) {
    const mfai_cpu_backward_job_t *job = t->job;
    if (t->rows_packed)
        return;
    t->rows_packed = true;
    const mfai_rows_t queries = find_queries(t, &job->problem->query);
    pack_rows(&queries, job->shape.query_words, t->scratch + job->scratch.query_rows);
    if (!job->bias_pass)
        pack_finite_values(&queries, t->scratch + job->scratch.query_panels);
    const mfai_rows_t douts = find_queries(t, &job->problem->dout);
    pack_rows(&douts, job->shape.value_words, t->scratch + job->scratch.dout_rows);
    if (!job->bias_pass)
        pack_finite_values(&douts, t->scratch + job->scratch.dout_panels);
}

/* Words of rows that see some of the keys. */
static mfa_span words_of_rows(const backward_tile_t *t, mfa_span keys) {
    mfa_span rows = mfa_span_of(0, t->rows);
    if (!t->whole) {
        while (rows.begin < rows.end && !mfa_spans_meet(t->seen[rows.begin], keys))
            ++rows.begin;
        while (rows.begin < rows.end && !mfa_spans_meet(t->seen[rows.end - 1], keys))
            --rows.end;
    }
    return mfa_span_tiles(rows, WORD_DEPTH);
}

/* Keys that some of the rows see, and what lies between. */
static mfa_span keys_of_rows(const backward_tile_t *t, mfa_span rows) {
    mfa_span keys = mfa_span_of(0, 0);
    for (int64_t r = rows.begin; r < rows.end; ++r)
        keys = join_spans(keys, t->seen[r]);
    return keys;
}

static int tile_rows(int64_t first, int64_t count) {
    return count - first < ROW_TILE ? (int)(count - first) : ROW_TILE;
}

static int64_t words_of_part(int64_t first, int64_t end) { return end - first < PART_WORDS ? end - first : PART_WORDS; }

/* products (rows x stride) = left . columns, in the panels of keys that rows of a register tile see. */
static void multiply_columns(const backward_tile_t *t, int64_t left, int64_t words, int64_t columns, int64_t depth,
                             int64_t products) {
    const int64_t stride = t->job->shape.stride;
    for (int64_t panel = t->part.begin / PANEL; panel * PANEL < t->part.end; ++panel) {
        const mfa_span panel_words = mfa_span_of(panel * PANEL / WORD_DEPTH, (panel + 1) * PANEL / WORD_DEPTH);
        for (int64_t row = 0; row < t->rows; row += ROW_TILE) {
            if (!mfa_spans_meet(t->words[row / ROW_TILE], panel_words))
                continue;
            const bool full = panel_is_full(panel, t->keys);
            const lane32 *a = t->scratch + left + row * words, *b = t->scratch + columns + panel * PANEL * words;
            const sums_t c = {t->scratch + products + row * stride + panel * PANEL, stride};
            const int rows = tile_rows(row, t->rows);
            multiply_replace(rows, full, (left_t){a, words}, b, words_of_part(0, depth), c, NULL);
            for (int64_t k = PART_WORDS; k < depth; k += PART_WORDS)
                multiply_add(rows, full, (left_t){a + k, words}, b + k * (full ? PANEL : VL), words_of_part(k, depth),
                             c, NULL);
        }
    }
}

/* Of a query row: its logsumexp, or +inf where no key is seen, in the form that gradient_step takes. */
static void set_reference(const backward_tile_t *t, int64_t query, gradient_row_t *row) {
    const mfai_cpu_backward_job_t *job = t->job;
    float logsumexp = *(const float *)mfai_view_row(&job->problem->logsumexp, t->sequence.batch, t->head, query);
    if (isinf(logsumexp))
        logsumexp = fabsf(logsumexp); /* not a constant, which gcc has loaded by x87, whose traps may be the caller's */
    const double exact = job->finish_scores ? logsumexp : logsumexp * MFA_LOG2_E_DOUBLE;
    row->reference = (float)exact;
    row->reference_rest = isinf(row->reference) ? 0 : (float)(exact - row->reference);
}

/* The rows from `row` on whose words share memory: raw products become weights and gradients. */
static void finish_rows(const backward_tile_t *t, int64_t row) {
    const mfai_cpu_backward_job_t *job = t->job;
    const int64_t stride = job->shape.stride;
    const int64_t first = mfai_cpu_backward_row(job, &t->sequence, t->head, t->first_row);
    gradient_row_t rows[WORD_DEPTH] = {{.scores = NULL}};
    mfa_span keys = mfa_span_of(0, 0);
    int count = 0;
    for (; count < WORD_DEPTH && row + count < t->rows; ++count) {
        const int64_t at = row + count;
        keys = join_spans(keys, t->seen[at]);
        rows[count] = (gradient_row_t){
            .seen = t->seen[at],
            .delta = job->delta[first + at],
            .taint = job->taint[first + at],
            .scores = t->scratch + job->scratch.scores + at * stride,
            .dscores = t->scratch + job->scratch.dscores + at * stride,
            .bias = t->found[at] & BIAS_ANY_NONZERO ? t->scratch + job->scratch.bias + at * stride : NULL,
        };
        set_reference(t, t->first_row + at, &rows[count]);
    }
    if (job->dropout.on && !mfa_span_is_empty(keys))
        for (int i = 0; i < count; ++i) {
            const int64_t begin = keys.begin / VL * VL, end = (keys.end + VL - 1) / VL * VL;
            float *drop_factors = t->scratch + job->scratch.drop_factors + i * stride;
            fill_drop_factors(&job->dropout, t->sequence.batch, t->head, t->first_row + row + i, t->first_key + begin,
                              end - begin, drop_factors + begin);
            rows[i].drop_factors = drop_factors;
        }
    const int64_t word_stride = job->shape.word_stride;
    lane32 *along = t->scratch + job->scratch.dscore_rows + row * word_stride;
    if (job->finish_scores)
        gradient_rows(job, true, rows, count, keys, t->part, along, word_stride);
    else
        gradient_rows(job, false, rows, count, keys, t->part, along, word_stride);
}

/* What each row sees of the run, and the biases. False if no row sees any. */
static bool find_visible(backward_tile_t *t) {
    const mfai_cpu_backward_job_t *job = t->job;
    const mfa_span rows = rows_of_tile(t);
    seen_t seen = find_seen(&t->walk, rows, t->run, t->first_key, t->seen);
    memset(t->found, 0, (size_t)t->rows);
    if (job->has_bias && !mfa_span_is_empty(seen.any)) {
        const sums_t biases = {t->scratch + job->scratch.bias, job->shape.stride};
        const unsigned all = fill_bias(&t->walk, rows, t->first_key, &seen, biases, t->found);
        if (job->problem->features & MFAI_BIASES)
            memset(t->found, (int)all, (size_t)t->rows);
    }
    t->part = mfa_span_of((t->run.begin - t->first_key) / PANEL * PANEL,
                          (t->run.end - t->first_key + PANEL - 1) / PANEL * PANEL);
    t->whole = true;
    for (int64_t r = 0; r < t->rows; ++r)
        t->whole =
            t->whole && t->seen[r].begin == t->run.begin - t->first_key && t->seen[r].end == t->run.end - t->first_key;
    for (int64_t row = 0; row < t->rows; row += ROW_TILE)
        t->words[row / ROW_TILE] =
            mfa_span_tiles(keys_of_rows(t, mfa_span_of(row, row + tile_rows(row, t->rows))), WORD_DEPTH);
    return !mfa_span_is_empty(seen.any);
}

/* The run that follows; false if there is none. Without blocks, it is all keys or none. */
static bool next_run(backward_tile_t *t) {
    const mfa_span keys = keys_of_tile(t), left = mfa_span_of(t->run.end, keys.end);
    const mfa_span next = mfai_walk_next(&t->walk, rows_of_tile(t), left, t->keys);
    t->run = t->job->problem->features & MFAI_BLOCKS || mfa_span_is_empty(next) ? next : mfa_span_cut(keys, left);
    return !mfa_span_is_empty(t->run);
}

/* Begins with the rows from first_row on, and the first run of keys that they may see; false if there is none. */
static bool begin_rows(backward_tile_t *t, int64_t first_row) {
    t->first_row = first_row;
    t->rows = rows_of_block(t);
    t->rows_packed = false;
    t->run = mfa_span_of(t->first_key, t->first_key);
    return next_run(t);
}

/* Weights and gradients of the run; false if no row sees a key. */
static bool fill_tile(backward_tile_t *t) {
    const mfai_cpu_backward_job_t *job = t->job;
    const mfai_problem_t *p = job->problem;
    if (!find_visible(t))
        return false;
    pack_key_block(t);
    pack_row_block(t);
    multiply_columns(t, job->scratch.query_rows, job->shape.query_words, job->scratch.key_columns,
                     words_of(p->head_dim), job->scratch.scores);
    multiply_columns(t, job->scratch.dout_rows, job->shape.value_words, job->scratch.value_columns,
                     words_of(p->value_dim), job->scratch.dscores);
    for (int64_t row = 0; row < t->rows; row += WORD_DEPTH)
        finish_rows(t, row);
    return true;
}

/* sums (keys x width) += left^T . panels */
static void add_to_keys(const backward_tile_t *t, int64_t left, int64_t panels, int64_t columns, int64_t sums,
                        int64_t width) {
    const int64_t stride = t->job->shape.stride * WORD_DEPTH, depth = words_of(t->rows);
    const int64_t first_key = t->part.begin, end_key = t->part.end < t->keys ? t->part.end : t->keys;
    mfa_span words[MFAI_CPU_BACKWARD_KEYS / ROW_TILE + 1];
    for (int64_t key = first_key; key < end_key; key += ROW_TILE)
        words[(key - first_key) / ROW_TILE] = words_of_rows(t, mfa_span_of(key, key + tile_rows(key, end_key)));
    for (int64_t panel = 0; panel * PANEL < columns; ++panel) {
        const bool full = panel_is_full(panel, columns);
        const lane32 *right = t->scratch + panels + panel * PANEL * depth;
        for (int64_t key = first_key; key < end_key; key += ROW_TILE) {
            const mfa_span rows = words[(key - first_key) / ROW_TILE];
            const int64_t end = rows.end;
            for (int64_t k = rows.begin; k < end; k += PART_WORDS)
                multiply_add_turned(tile_rows(key, end_key), full,
                                    (left_t){t->scratch + left + k * stride + key, stride},
                                    right + k * (full ? PANEL : VL), words_of_part(k, end),
                                    (sums_t){t->scratch + sums + key * width + panel * PANEL, width}, NULL);
        }
    }
}

/* Where row `row` of dquery is summed, and the floats from one row to the next. */
static float *dquery_sums(const mfai_cpu_backward_job_t *job, const mfai_cpu_backward_sequence_t *sequence,
                          int64_t head, int64_t row, int64_t *step) {
    const mfai_problem_t *p = job->problem;
    if (job->dquery == NULL) {
        *step = p->dquery.stride[2];
        return (float *)mfai_view_row(&p->dquery, sequence->batch, head, row);
    }
    const mfai_cpu_backward_sequence_t first = mfai_cpu_backward_sequence(job, job->first_head / p->kv_heads);
    const int64_t first_row = mfai_cpu_backward_row(job, &first, job->first_head % p->kv_heads * p->group, 0);
    *step = job->shape.query_width;
    return job->dquery + (mfai_cpu_backward_row(job, sequence, head, row) - first_row) * *step;
}

static void add_to_queries(const backward_tile_t *t) {
    const mfai_cpu_backward_job_t *job = t->job;
    const int64_t stride = job->shape.word_stride, capacity = words_of(t->keys), columns = job->problem->head_dim;
    const lane32 *gradients = t->scratch + (WORD_DEPTH == 1 ? job->scratch.dscores : job->scratch.dscore_rows);
    int64_t step;
    float *sums = dquery_sums(job, &t->sequence, t->head, t->first_row, &step);
    for (int64_t panel = 0; panel * PANEL < columns; ++panel) {
        const bool full = panel_is_full(panel, columns);
        const lane32 *right = t->scratch + job->scratch.key_panels + panel * PANEL * capacity;
        for (int64_t row = 0; row < t->rows; row += ROW_TILE) {
            const int64_t end = t->words[row / ROW_TILE].end;
            for (int64_t k = t->words[row / ROW_TILE].begin; k < end; k += PART_WORDS)
                multiply_add(tile_rows(row, t->rows), full, (left_t){gradients + row * stride + k, stride},
                             right + k * (full ? PANEL : VL), words_of_part(k, end),
                             (sums_t){sums + row * step + panel * PANEL, step}, NULL);
        }
    }
}

static void wait_for_turn(const uint32_t *turn, uint32_t mine) {
    for (unsigned looks = 0; __atomic_load_n(turn, __ATOMIC_ACQUIRE) != mine; ++looks)
        mfai_pause(looks);
}

static void backward_rows(backward_tile_t *t, int64_t row_block, int64_t key_block) {
    const mfai_cpu_backward_job_t *job = t->job;
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_backward_shape_t *shape = &job->shape;
    const mfai_cpu_backward_sequence_t *sequence = &t->sequence;
    uint32_t *turn = &job->turns[p->heads * sequence->row_blocks_before + t->head * sequence->row_blocks + row_block];
    bool waited = false;
    do {
        const bool any = fill_tile(t);
        if (any && p->dvalue.present)
            add_to_keys(t, job->scratch.scores, job->scratch.dout_panels, job->problem->value_dim, job->scratch.dvalue,
                        shape->value_width);
        if (any && p->dkey.present)
            add_to_keys(t, job->scratch.dscores, job->scratch.query_panels, job->problem->head_dim, job->scratch.dkey,
                        shape->query_width);
        if (p->dquery.present && !waited) {
            const int64_t before = mfai_walk_before(&t->walk, rows_of_tile(t), key_block, shape->block_keys);
            wait_for_turn(turn, (uint32_t)(before + 1));
            waited = true;
        }
        if (any && p->dquery.present)
            add_to_queries(t);
    } while (next_run(t));
    if (p->dquery.present)
        __atomic_store_n(turn, (uint32_t)(key_block + 1), __ATOMIC_RELEASE);
}

/* Code i of a row, as a number. */
INLINE int32_t code_at(const char *row, const int32_t format, int64_t i, int64_t stride) {
    switch (format) {
    case MFAI_FORMAT_INT8:
        return ((const int8_t *)row)[i * stride];
    case MFAI_FORMAT_UINT8:
        return ((const uint8_t *)row)[i * stride];
    default: {
        const int32_t nibble = ((const uint8_t *)row)[i / 2] >> (i % 2 * 4) & 15;
        return format == MFAI_FORMAT_INT4 && nibble > 7 ? nibble - 16 : nibble;
    }
    }
}

/* Zeros for codes at an end of the range: what they were made of may lie beyond. */
static void zero_clipped(const mfai_view_t *codes, const mfai_quantization_t *quantization, const char *row,
                         float *gradient) {
    const int32_t highest = mfai_format_highest(codes->format);
    const int32_t lowest = quantization->zero_points.present ? mfai_format_lowest(codes->format) : -highest;
#define ZERO(format)                                                     \
    for (int64_t i = 0; i < codes->shape[3]; ++i) {                      \
        const int32_t code = code_at(row, format, i, codes->stride[3]);  \
        gradient[i] = code > lowest && code < highest ? gradient[i] : 0; \
    }
    switch (codes->format) {
    case MFAI_FORMAT_INT8:
        ZERO(MFAI_FORMAT_INT8)
        break;
    case MFAI_FORMAT_UINT8:
        ZERO(MFAI_FORMAT_UINT8)
        break;
    case MFAI_FORMAT_INT4:
        ZERO(MFAI_FORMAT_INT4)
        break;
    default:
        ZERO(MFAI_FORMAT_UINT4)
    }
#undef ZERO
}

static void store_key_gradient(const backward_tile_t *t, const mfai_view_t *view, const mfai_view_t *operand,
                               const mfai_quantization_t *quantization, float *sums, int64_t width) {
    if (!view->present)
        return;
    const bool zeroes = t->job->problem->features & MFAI_ZERO_CLIPPED && mfai_view_has_codes(operand);
    for (int64_t j = 0; j < t->keys; ++j) {
        const int64_t b = t->sequence.batch, row = t->first_key + j;
        if (zeroes)
            zero_clipped(operand, quantization, mfai_view_row(operand, b, t->kv_head, row), sums + j * width);
        store_row(sums + j * width, view->shape[3], 1, mfai_view_row(view, b, t->kv_head, row), view->format,
                  view->stride[3]);
    }
}

/* The last number of the first `count`, which ascend from 0, that is at most `most`. */
static int64_t last_at_most(const int64_t *numbers, int64_t count, int64_t most) {
    int64_t begin = 0, end = count;
    while (end - begin > 1) {
        const int64_t middle = begin + (end - begin) / 2;
        *(numbers[middle] <= most ? &begin : &end) = middle;
    }
    return begin;
}

static void backward_task(void *argument, int64_t task, int slot) {
    const mfai_cpu_backward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_backward_shape_t *shape = &job->shape;
    /* Blocks of keys come one after the other, so that waiting for the one before is rare unless there is a single
       head. */
    const int64_t key_block = last_at_most(job->block_tasks, job->most_blocks, task);
    const int64_t number = job->first_head + task - job->block_tasks[key_block];
    backward_tile_t t = {
        .job = job,
        .scratch = (float *)job->memory + slot * job->scratch.size,
        .sequence = mfai_cpu_backward_sequence(job, number / p->kv_heads),
        .kv_head = number % p->kv_heads,
        .first_key = key_block * shape->block_keys,
    };
    t.keys = keys_of_block(&t);
    float *dkey = t.scratch + job->scratch.dkey, *dvalue = t.scratch + job->scratch.dvalue;
    memset(dkey, 0, (size_t)(t.keys * shape->query_width) * sizeof *dkey);
    memset(dvalue, 0, (size_t)(t.keys * shape->value_width) * sizeof *dvalue);
    memset(t.scratch + job->scratch.zeros, 0, (size_t)(job->scratch.size - job->scratch.zeros) * sizeof(float));
    for (t.head = t.kv_head * p->group; t.head < (t.kv_head + 1) * p->group; ++t.head) {
        t.walk = mfai_walk_of(p, t.sequence.batch, mfa_span_of(t.head, t.head + 1));
        for (int64_t i = 0; i < t.sequence.row_blocks; ++i) {
            if (begin_rows(&t, i * shape->block_rows))
                backward_rows(&t, i, key_block);
        }
    }
    store_key_gradient(&t, &p->dkey, &p->key, &p->key_quantization, dkey, shape->query_width);
    store_key_gradient(&t, &p->dvalue, &p->value, &p->value_quantization, dvalue, shape->value_width);
}

/* A contiguous row as floats, where it lies or in `copy`, which has room for two such rows. */
static const float *float_row(const mfai_view_t *view, int64_t b, int64_t head, int64_t row, float *copy) {
    const int64_t columns = view->shape[3];
    const char *source = mfai_row_find(view, b, head, row, (char *)(copy + columns));
    if (view->format == MFAI_FORMAT_FP32)
        return (const float *)source;
    int64_t i = 0;
    for (; i + VL <= columns; i += VL)
        vf_store(copy + i, load_converted(source, view->format, i, VL));
    if (i < columns)
        vf_store_n(copy + i, load_converted(source, view->format, i, (int)(columns - i)), (int)(columns - i));
    return copy;
}

static float dot(const float *a, const float *b, int64_t count) {
    vf sum = vf_zero();
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        sum = vf_fma(vf_load(a + i), vf_load(b + i), sum);
    if (i < count)
        sum = vf_fma(vf_load_n(a + i, (int)(count - i)), vf_load_n(b + i, (int)(count - i)), sum);
    return vf_hsum(sum);
}

/* As of a row that sees no key, whose dout must not matter. */
static bool is_zero(const float *a, int64_t count) {
    int64_t i = 0;
    while (i < count && a[i] == 0)
        ++i;
    return i == count;
}

/* 0, or NaN if anything is not finite. */
static float times_zero(const float *a, int64_t count) {
    vf sum = vf_zero();
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        sum = vf_fma(vf_load(a + i), vf_zero(), sum);
    if (i < count)
        sum = vf_fma(vf_load_n(a + i, (int)(count - i)), vf_zero(), sum);
    return vf_hsum(sum);
}

/* Rows first .. end - 1 of one head. */
typedef struct {
    mfai_cpu_backward_sequence_t sequence;
    int64_t head, first, end;
} some_rows_t;

/* Block `number` of MFAI_CPU_PREPARE_ROWS rows. */
static some_rows_t find_some_rows(const mfai_cpu_backward_job_t *job, int64_t number) {
    const int64_t heads = job->problem->heads;
    some_rows_t some;
    if (job->sequences == NULL) {
        some.sequence = mfai_cpu_backward_sequence(job, number / (heads * job->alike.prepare_blocks));
    } else {
        int64_t begin = 0, end = job->problem->batch;
        while (end - begin > 1) {
            const int64_t middle = begin + (end - begin) / 2;
            *(heads * job->sequences[middle].prepare_blocks_before <= number ? &begin : &end) = middle;
        }
        some.sequence = job->sequences[begin];
    }
    const int64_t in_sequence = number - heads * some.sequence.prepare_blocks_before;
    some.head = in_sequence / some.sequence.prepare_blocks;
    some.first = in_sequence % some.sequence.prepare_blocks * MFAI_CPU_PREPARE_ROWS;
    some.end = some.first + MFAI_CPU_PREPARE_ROWS;
    if (some.end > some.sequence.queries)
        some.end = some.sequence.queries;
    return some;
}

/* dout . out of a row, or what the caller says it is. The caller's delta does not know dlogsumexp. */
static float find_delta(const mfai_problem_t *p, const float *dout, int64_t b, int64_t head, int64_t row, float *copy) {
    float *given = p->delta.present ? (float *)(void *)mfai_view_row(&p->delta, b, head, row) : NULL;
    if (!p->out.present)
        return *given;
    const float *out = float_row(&p->out, b, head, row, copy);
    const float delta = is_zero(out, p->value_dim) ? 0 : dot(dout, out, p->value_dim);
    if (given != NULL)
        *given = delta;
    return delta;
}

static void backward_prepare(void *argument, int64_t task, int slot) {
    const mfai_cpu_backward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    float *first_copy = (float *)job->memory + slot * job->scratch.size, *second_copy = first_copy + 2 * p->value_dim;
    const some_rows_t some = find_some_rows(job, task);
    const int64_t b = some.sequence.batch, head = some.head;
    for (int64_t row = some.first; row < some.end; ++row) {
        const int64_t at = mfai_cpu_backward_row(job, &some.sequence, head, row);
        const float *dout = float_row(&job->problem->dout, b, head, row, first_copy);
        job->delta[at] = find_delta(p, dout, b, head, row, second_copy);
        if (p->dlogsumexp.present)
            job->delta[at] -= *(const float *)mfai_view_row(&p->dlogsumexp, b, head, row);
        job->taint[at] = times_zero(dout, p->value_dim);
        if (p->dquery.present && !job->bias_pass && job->dquery == NULL)
            memset(mfai_view_row(&p->dquery, b, head, row), 0, (size_t)p->head_dim * sizeof(float));
        if (at < job->sum_rows)
            memset(job->dquery + at * job->shape.query_width, 0, (size_t)job->shape.query_width * sizeof(float));
    }
}

static void backward_finish(void *argument, int64_t task, int slot) {
    (void)slot;
    const mfai_cpu_backward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_view_t *dquery = &job->problem->dquery;
    const some_rows_t some = find_some_rows(job, job->first_block + task);
    for (int64_t row = some.first; row < some.end; ++row) {
        int64_t step;
        float *sums = dquery_sums(job, &some.sequence, some.head, row, &step);
        store_row(sums, p->head_dim, 1, mfai_view_row(dquery, some.sequence.batch, some.head, row), dquery->format,
                  dquery->stride[3]);
        memset(sums, 0, (size_t)step * sizeof *sums);
    }
}

/* dsinks of one head. */
static void backward_sinks(void *argument, int64_t task, int slot) {
    (void)slot;
    const mfai_cpu_backward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const float sink = *(const float *)mfai_view_row(&p->sinks, 0, task, 0);
    double sum = 0;
    for (int64_t i = 0; i < p->batch && sink != -INFINITY; ++i) {
        const mfai_cpu_backward_sequence_t sequence = mfai_cpu_backward_sequence(job, i);
        const float *delta = job->delta + mfai_cpu_backward_row(job, &sequence, task, 0);
        for (int64_t row = 0; row < sequence.queries; ++row) {
            const float logsumexp = *(const float *)mfai_view_row(&p->logsumexp, sequence.batch, task, row);
            sum -= exp((double)sink - logsumexp) * delta[row];
        }
    }
    *(float *)mfai_view_row(&job->problem->dsinks, 0, task, 0) = (float)sum;
}

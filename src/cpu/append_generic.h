/*
 * New rows go into the cache, and what has a position is turned by it: column pairs (x, y) become
 * (x cos - y sin, x sin + y cos), in float32, rounded once. RoFormer (Su et al., 2021). A cache of codes has new rows
 * quantised.
 */

/* Room for one row, what becomes of it as codes, and the cosines and sines of a position. */
typedef struct {
    char *copy;
    float *row, *cosines, *sines;
    float *highs, *lows, *scales, *zero_points, *mean;
    int8_t *bytes;
    int64_t half;     /* as many pairs are turned */
    int64_t position; /* theirs; -1: none yet */
} turn_t;

static void find_angles(const mfai_problem_t *p, int64_t position, turn_t *turn) {
    if (turn->position == position)
        return;
    turn->position = position;
    const mfai_view_t *cosines = &p->rotary_cos, *sines = &p->rotary_sin;
    load_floats(mfai_row_find(cosines, 0, 0, position, turn->copy), cosines->format, turn->half, turn->cosines);
    load_floats(mfai_row_find(sines, 0, 0, position, turn->copy), sines->format, turn->half, turn->sines);
}

/* Pairs (row[step * i], row[step * i + apart]). */
INLINE void turn_pairs(float *restrict row, const float *restrict cosines, const float *restrict sines, int64_t half,
                       const int step, int64_t apart) {
    for (int64_t i = 0; i < half; ++i) {
        const float x = row[step * i], y = row[step * i + apart];
        row[step * i] = x * cosines[i] - y * sines[i];
        row[step * i + apart] = x * sines[i] + y * cosines[i];
    }
}

static void turn_floats(const mfai_problem_t *p, const turn_t *turn) {
    if (p->is_interleaved)
        turn_pairs(turn->row, turn->cosines, turn->sines, turn->half, 2, 1);
    else
        turn_pairs(turn->row, turn->cosines, turn->sines, turn->half, 1, turn->half);
}

/* Row `row` of head h of the sequence to row `target_row` of the other view's. */
static void turn_row(const mfai_problem_t *p, const turn_t *turn, int64_t b, int64_t h, const mfai_view_t *from,
                     int64_t row, const mfai_view_t *to, int64_t target_row) {
    const char *source = mfai_row_find(from, b, h, row, turn->copy);
    char *target = mfai_view_row(to, b, h, target_row);
    mfai_copy_row(from, mfai_view_row(from, b, h, row), to,
                  target); /* the columns that are not turned keep their bits */
    load_floats(source, from->format, 2 * turn->half, turn->row);
    turn_floats(p, turn);
    store_row(turn->row, 2 * turn->half, 1, target, to->format, to->stride[3]);
}

/* A cache of codes, and the rows that are new in it. */
typedef struct {
    const mfai_view_t *rows, *codes;
    const mfai_quantization_t *quantization;
} coded_cache_t;

static char *scale_element(const mfai_quantization_t *quantization, const mfai_view_t *view, int64_t b, int64_t h,
                           int64_t row, int64_t group) {
    return (char *)(uintptr_t)mfai_scale_find(quantization, view, b, h, row) +
           mfai_view_offset(view, group * view->stride[3]);
}

/* Finds the row's own scales and zero points, and writes them. None is beyond its precision: codes are cut instead. */
static void make_scales(const coded_cache_t *cache, const mfai_cpu_code_range_t *range, const turn_t *turn,
                        const float *mean, int64_t width, int64_t b, int64_t h, int64_t row) {
    const mfai_quantization_t *quantization = cache->quantization;
    const mfai_view_t *scales = &quantization->scales, *zero_points = &quantization->zero_points;
    memset(turn->highs, 0, (size_t)width * sizeof(float));
    memset(turn->lows, 0, (size_t)width * sizeof(float));
    widen_range(turn->row, mean, width, turn->highs, turn->lows);
    narrow_groups(turn->highs, width, quantization->columns, scales->shape[3], turn->scales);
    narrow_groups(turn->lows, width, quantization->columns, scales->shape[3], turn->zero_points);
    for (int64_t g = 0; g < scales->shape[3]; ++g) {
        const float low = turn->zero_points[g];
        turn->scales[g] = fminf(mfai_cpu_scale(range, low, turn->scales[g]), mfai_cpu_most_scale(range));
        turn->zero_points[g] = mfai_cpu_zero_point(range, low, turn->scales[g]);
        mfai_cpu_factor_store(scale_element(quantization, scales, b, h, row, g), scales->format, turn->scales[g]);
        if (zero_points->present)
            mfai_cpu_factor_store(scale_element(quantization, zero_points, b, h, row, g), zero_points->format,
                                  turn->zero_points[g]);
    }
}

/* Reads those that all rows share. */
static void take_scales(const mfai_quantization_t *quantization, const turn_t *turn, int64_t b, int64_t h,
                        int64_t row) {
    const mfai_view_t *scales = &quantization->scales, *zero_points = &quantization->zero_points;
    for (int64_t g = 0; g < scales->shape[3]; ++g) {
        turn->scales[g] = mfai_cpu_factor_load(scale_element(quantization, scales, b, h, row, g), scales->format);
        turn->zero_points[g] =
            zero_points->present
                ? mfai_cpu_factor_load(scale_element(quantization, zero_points, b, h, row, g), zero_points->format)
                : 0;
    }
}

/* Row i of head h of the sequence's new ones becomes row `row` of the cache, turned first if its position is known. */
static void quantise_row(const mfai_problem_t *p, const turn_t *turn, const coded_cache_t *cache, bool turns, int64_t b,
                         int64_t h, int64_t i, int64_t row) {
    const mfai_quantization_t *quantization = cache->quantization;
    const int64_t columns = cache->rows->shape[3], width = (columns + VL - 1) / VL * VL;
    const mfai_cpu_code_range_t range = mfai_cpu_code_range(cache->codes, quantization);
    load_floats(mfai_row_find(cache->rows, b, h, i, turn->copy), cache->rows->format, columns, turn->row);
    if (turns)
        turn_floats(p, turn);
    if (quantization->mean.present)
        read_mean(quantization, b, h, width, turn->mean);
    const float *mean = quantization->mean.present ? turn->mean : NULL;
    if (quantization->rows == 1)
        make_scales(cache, &range, turn, mean, width, b, h, row);
    else
        take_scales(quantization, turn, b, h, row);
    encode_row(turn->row, mean, width, turn->scales, turn->zero_points, quantization->columns, columns, &range);
    store_codes(turn->row, columns, turn->bytes, mfai_view_row(cache->codes, b, h, row), cache->codes->format,
                cache->codes->stride[3]);
}

static void append_key(const mfai_cpu_append_job_t *job, const turn_t *turn, int64_t b, int64_t h, int64_t i,
                       int64_t row) {
    const mfai_problem_t *p = job->problem;
    const coded_cache_t cache = {&p->new_key, &p->key, &p->key_quantization};
    if (p->features & MFAI_KEY_CODES)
        quantise_row(p, turn, &cache, job->turns, b, h, i, row);
    else if (job->turns)
        turn_row(p, turn, b, h, &p->new_key, i, &p->key, row);
    else
        mfai_copy_row(&p->new_key, mfai_view_row(&p->new_key, b, h, i), &p->key, mfai_view_row(&p->key, b, h, row));
}

static void append_value(const mfai_cpu_append_job_t *job, const turn_t *turn, int64_t b, int64_t h, int64_t i,
                         int64_t row) {
    const mfai_problem_t *p = job->problem;
    const coded_cache_t cache = {&p->new_value, &p->value, &p->value_quantization};
    if (p->features & MFAI_VALUE_CODES)
        quantise_row(p, turn, &cache, false, b, h, i, row);
    else
        mfai_copy_row(&p->new_value, mfai_view_row(&p->new_value, b, h, i), &p->value,
                      mfai_view_row(&p->value, b, h, row));
}

/* Some rows of one sequence, new ones and queries. */
static void append_task(void *argument, int64_t task, int slot) {
    const mfai_cpu_append_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    float *scratch = (float *)job->memory + slot * job->scratch.size;
    turn_t turn = {.copy = (char *)(scratch + job->scratch.copy),
                   .row = scratch + job->scratch.row,
                   .cosines = scratch + job->scratch.cosines,
                   .sines = scratch + job->scratch.sines,
                   .highs = scratch + job->scratch.highs,
                   .lows = scratch + job->scratch.lows,
                   .scales = scratch + job->scratch.scales,
                   .zero_points = scratch + job->scratch.zero_points,
                   .mean = scratch + job->scratch.mean,
                   .bytes = (int8_t *)(scratch + job->scratch.bytes),
                   .half = p->rotary_cos.shape[3],
                   .position = -1};
    const int64_t b = task / job->blocks, first = task % job->blocks * job->task_rows;
    const mfai_length_t *length = &p->lengths[b];
    for (int64_t i = first; i < first + job->task_rows && i < length->new; ++i) {
        if (job->turns)
            find_angles(p, length->rotary + i, &turn);
        for (int64_t h = 0; h < p->kv_heads; ++h) {
            append_key(job, &turn, b, h, i, length->new_first + i);
            append_value(job, &turn, b, h, i, length->new_first + i);
        }
    }
    for (int64_t i = first; job->turns && i < first + job->task_rows && i < length->queries; ++i) {
        find_angles(p, length->rotary + (mfai_queries_step(p) ? i : 0), &turn);
        for (int64_t h = 0; h < p->heads; ++h)
            turn_row(p, &turn, b, h, &p->query, i, &job->queries, i);
    }
}

/*
 * New rows go into the cache, and what has a position is turned by it: column pairs (x, y) become
 * (x cos - y sin, x sin + y cos), in float32, rounded once. RoFormer (Su et al., 2021).
 */

/* A contiguous row as floats, padded to whole vectors. */
INLINE void load_floats_as(const int32_t format, const char *row, int64_t count, float *floats) {
    for (int64_t i = 0; i < count; i += VL)
        vf_store(floats + i, load_converted(row, format, i, count - i < VL ? (int)(count - i) : VL));
}

static void load_floats(const char *row, int32_t format, int64_t count, float *floats) {
#define LOAD(format) load_floats_as(format, row, count, floats)
    WITH_FORMAT(format, LOAD)
#undef LOAD
}

/* Room for one row, and the cosines and sines of a position. */
typedef struct {
    char *copy;
    float *row, *cosines, *sines;
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

/* Row `row` of head h of the sequence to row `target_row` of the other view's. */
static void turn_row(const mfai_problem_t *p, const turn_t *turn, int64_t b, int64_t h, const mfai_view_t *from,
                     int64_t row, const mfai_view_t *to, int64_t target_row) {
    const char *source = mfai_row_find(from, b, h, row, turn->copy);
    char *target = mfai_view_row(to, b, h, target_row);
    mfai_copy_row(from, mfai_view_row(from, b, h, row), to,
                  target); /* the columns that are not turned keep their bits */
    load_floats(source, from->format, 2 * turn->half, turn->row);
    if (p->is_interleaved)
        turn_pairs(turn->row, turn->cosines, turn->sines, turn->half, 2, 1);
    else
        turn_pairs(turn->row, turn->cosines, turn->sines, turn->half, 1, turn->half);
    store_row(turn->row, 2 * turn->half, 1, target, to->format, to->stride[3]);
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
                   .half = p->rotary_cos.shape[3],
                   .position = -1};
    const int64_t b = task / job->blocks, first = task % job->blocks * job->task_rows;
    const mfai_length_t *length = &p->lengths[b];
    for (int64_t i = first; i < first + job->task_rows && i < length->new; ++i) {
        if (job->turns)
            find_angles(p, length->rotary + i, &turn);
        for (int64_t h = 0; h < p->kv_heads; ++h) {
            const int64_t at = length->new_first + i;
            if (job->turns)
                turn_row(p, &turn, b, h, &p->new_key, i, &p->key, at);
            else
                mfai_copy_row(&p->new_key, mfai_view_row(&p->new_key, b, h, i), &p->key,
                              mfai_view_row(&p->key, b, h, at));
            mfai_copy_row(&p->new_value, mfai_view_row(&p->new_value, b, h, i), &p->value,
                          mfai_view_row(&p->value, b, h, at));
        }
    }
    for (int64_t i = first; job->turns && i < first + job->task_rows && i < length->queries; ++i) {
        find_angles(p, length->rotary + (mfai_queries_step(p) ? i : 0), &turn);
        for (int64_t h = 0; h < p->heads; ++h)
            turn_row(p, &turn, b, h, &p->query, i, &job->queries, i);
    }
}

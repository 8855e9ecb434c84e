/*
 * The gradient of the additive mask. Each of its elements has one owner, which adds up the score gradients of everything that the
 * element was broadcast to, in a fixed order. A task owns a tile of it; weights are computed anew for each tile.
 */

/* Along one axis of the scores: the tiles that a task adds up, and whether they all fall into one element. */
typedef struct {
    int64_t first, last; /* one past it */
    bool summed;
} bias_axis_t;

static bias_axis_t bias_axis(const mfai_view_t *dbias, int axis, int64_t scores, int64_t owned, int64_t tiles) {
    const bool summed = dbias->shape[axis] == 1 && scores != 1;
    return summed ? (bias_axis_t){0, tiles, true} : (bias_axis_t){owned, owned + 1, false};
}

static void add_tile(const backward_tile_t *t, bool sum_rows, bool sum_keys, float *sums) {
    const int64_t stride = t->job->shape.stride;
    const float *gradients = t->scratch + t->job->at.dscores;
    for (int64_t r = 0; r < t->rows; ++r) {
        const float *row = gradients + r * stride;
        float *to = sums + (sum_rows ? 0 : r * stride);
        if (sum_keys) {
            float sum = 0;
            for (int64_t j = 0; j < t->keys; ++j)
                sum += row[j];
            *to += sum;
        } else {
            for (int64_t j = 0; j < t->keys; ++j)
                to[j] += row[j];
        }
    }
}

static void backward_bias(void *argument, int64_t task, int slot) {
    const mfai_backward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_backward_shape_t *shape = &job->shape;
    const mfai_view_t *dbias = &job->problem->dbias;
    backward_tile_t t = {.job = job, .scratch = (float *)job->scratch + slot * job->at.size};
    float *sums = t.scratch + job->at.sums;
    memset(sums, 0, (size_t)(shape->block_rows * shape->stride) * sizeof *sums);
    memset(t.scratch + job->at.zeros, 0, (size_t)(job->at.size - job->at.zeros) * sizeof(float));

    const int64_t own_keys = dbias->shape[3] == 1 ? 1 : shape->key_blocks;
    const int64_t own_rows = dbias->shape[2] == 1 ? 1 : shape->row_blocks;
    const int64_t key_tile = task % own_keys, row_tile = task / own_keys % own_rows;
    const int64_t own_head = task / own_keys / own_rows % dbias->shape[1];
    const int64_t own_batch = task / own_keys / own_rows / dbias->shape[1];
    const bias_axis_t batches = bias_axis(dbias, 0, p->batch, own_batch, p->batch);
    const bias_axis_t heads = bias_axis(dbias, 1, p->heads, own_head, p->heads);
    const bias_axis_t rows = bias_axis(dbias, 2, p->query_count, row_tile, shape->row_blocks);
    const bias_axis_t keys = bias_axis(dbias, 3, p->key_count, key_tile, shape->key_blocks);

    for (t.b = batches.first; t.b < batches.last; ++t.b)
        for (t.head = heads.first; t.head < heads.last; ++t.head)
            for (int64_t k = keys.first; k < keys.last; ++k) {
                t.kv_head = t.head / p->group;
                t.first_key = k * shape->block_keys;
                t.keys =
                    p->key_count - t.first_key < shape->block_keys ? p->key_count - t.first_key : shape->block_keys;
                t.packed = false;
                for (int64_t i = rows.first; i < rows.last; ++i) {
                    t.first_row = i * shape->block_rows;
                    t.rows = p->query_count - t.first_row < shape->block_rows ? p->query_count - t.first_row
                                                                              : shape->block_rows;
                    int64_t first, last;
                    key_blocks_of(job, t.first_row, t.rows, &first, &last);
                    if (first <= k && k <= last && fill_tile(&t))
                        add_tile(&t, rows.summed, keys.summed, sums);
                }
            }

    const int64_t first_row = row_tile * shape->block_rows, first_key = key_tile * shape->block_keys;
    const int64_t row_count =
        dbias->shape[2] - first_row < shape->block_rows ? dbias->shape[2] - first_row : shape->block_rows;
    const int64_t key_count =
        dbias->shape[3] - first_key < shape->block_keys ? dbias->shape[3] - first_key : shape->block_keys;
    for (int64_t r = 0; r < row_count; ++r)
        store_row(sums + r * shape->stride, key_count, 1,
                  view_row(dbias, own_batch, own_head, first_row + r) +
                      first_key * dbias->stride[3] * mfai_view_element(dbias),
                  dbias->format, dbias->stride[3]);
}

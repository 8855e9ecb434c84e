/*
 * The gradient of the additive mask. Each of its elements has one owner, which adds up the score gradients of
 * everything that the element was broadcast to, in a fixed order. A task owns a tile of it; weights are computed anew
 * for each tile.
 */

/* The tiles along one axis of the scores that a task adds up: all of them if they fall into one element. */
static mfa_span bias_tiles(bool summed, int64_t owned, int64_t tiles) {
    return summed ? mfa_span_of(0, tiles) : mfa_span_of(owned, owned + 1);
}

static void add_tile(const backward_tile_t *t, bool sum_rows, bool sum_keys, float *sums) {
    const int64_t stride = t->job->shape.stride;
    const int64_t end = t->part.end < t->keys ? t->part.end : t->keys;
    const float *gradients = t->scratch + t->job->scratch.dscores;
    for (int64_t r = 0; r < t->rows; ++r) {
        const float *row = gradients + r * stride;
        float *to = sums + (sum_rows ? 0 : r * stride);
        if (sum_keys) {
            float sum = 0;
            for (int64_t j = t->part.begin; j < end; ++j)
                sum += row[j];
            *to += sum;
        } else {
            for (int64_t j = t->part.begin; j < end; ++j)
                to[j] += row[j];
        }
    }
}

static void backward_bias(void *argument, int64_t task, int slot) {
    const mfai_cpu_backward_job_t *job = argument;
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_backward_shape_t *shape = &job->shape;
    const mfai_view_t *dbias = &job->problem->dbias;
    backward_tile_t t = {.job = job, .scratch = (float *)job->memory + slot * job->scratch.size};
    float *sums = t.scratch + job->scratch.sums;
    memset(sums, 0, (size_t)(shape->block_rows * shape->stride) * sizeof *sums);
    memset(t.scratch + job->scratch.zeros, 0, (size_t)(job->scratch.size - job->scratch.zeros) * sizeof(float));

    const bool sum_rows = dbias->shape[2] == 1, sum_keys = dbias->shape[3] == 1;
    const int64_t own_keys = sum_keys ? 1 : shape->key_blocks, own_rows = sum_rows ? 1 : shape->row_blocks;
    const int64_t key_tile = task % own_keys, row_tile = task / own_keys % own_rows;
    const int64_t own_head = task / own_keys / own_rows % dbias->shape[1];
    const int64_t own_batch = task / own_keys / own_rows / dbias->shape[1];
    const mfa_span batches = bias_tiles(dbias->shape[0] == 1, own_batch, p->batch);
    const mfa_span heads = bias_tiles(dbias->shape[1] == 1, own_head, p->heads);
    const mfa_span rows = bias_tiles(sum_rows, row_tile, shape->row_blocks);
    const mfa_span keys = bias_tiles(sum_keys, key_tile, shape->key_blocks);

    for (int64_t b = batches.begin; b < batches.end; ++b)
        for (t.head = heads.begin; t.head < heads.end; ++t.head)
            for (int64_t k = keys.begin; k < keys.end; ++k) {
                t.sequence = mfai_cpu_backward_sequence(job, b);
                t.walk = mfai_walk_of(p, b, mfa_span_of(t.head, t.head + 1));
                t.kv_head = t.head / p->group;
                t.first_key = k * shape->block_keys;
                t.keys = keys_of_block(&t);
                t.packed = false;
                for (int64_t i = rows.begin; i < rows.end; ++i) {
                    if (!begin_rows(&t, i * shape->block_rows))
                        continue;
                    do
                        if (fill_tile(&t))
                            add_tile(&t, sum_rows, sum_keys, sums);
                    while (next_run(&t));
                }
            }

    const int64_t first_row = row_tile * shape->block_rows, first_key = key_tile * shape->block_keys;
    const int64_t row_count =
        dbias->shape[2] - first_row < shape->block_rows ? dbias->shape[2] - first_row : shape->block_rows;
    const int64_t key_count =
        dbias->shape[3] - first_key < shape->block_keys ? dbias->shape[3] - first_key : shape->block_keys;
    for (int64_t r = 0; r < row_count; ++r)
        store_row(sums + r * shape->stride, key_count, 1,
                  mfai_view_row(dbias, own_batch, own_head, first_row + r) +
                      first_key * dbias->stride[3] * mfai_view_element(dbias),
                  dbias->format, dbias->stride[3]);
}

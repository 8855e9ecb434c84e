#include "cpu/append.h"

#include "cpu/sizes.h"
#include "cpu/threads.h"

enum {
    TASK_ELEMENTS = 1 << 14,
    MOST_TASK_ROWS = 64,
    ALONE_ELEMENTS = 1 << 15, /* so few are done before another thread is awake */
};

static int64_t floats_of(const mfai_view_t *view, int64_t count) {
    return mfai_ceil_div(count * mfai_view_element(view), (int64_t)sizeof(float));
}

mfai_cpu_append_job_t mfai_cpu_append_plan(const mfai_cpu_device_t *device, const mfai_problem_t *p,
                                           int64_t *workspace) {
    mfai_cpu_append_job_t job = {
        .problem = p, .run = device->isa->float32->append, .queries = p->query, .turns = p->features & MFAI_ROTARY};
    int64_t rows = 0;
    for (int64_t b = 0; b < p->batch; ++b) {
        rows = mfai_max(rows, p->lengths[b].new);
        rows = mfai_max(rows, job.turns ? p->lengths[b].queries : 0);
    }
    const int64_t elements = p->kv_heads * (p->head_dim + p->value_dim) + (job.turns ? p->heads * p->head_dim : 0);
    job.task_rows = mfai_clamp(TASK_ELEMENTS / elements, 1, MOST_TASK_ROWS);
    job.blocks = mfai_ceil_div(rows, job.task_rows);
    job.tasks = p->batch * job.blocks;
    job.width = p->batch * rows <= ALONE_ELEMENTS / elements ? 1 : (int)mfai_clamp(job.tasks, 1, device->num_threads);

    const int64_t half = p->rotary_cos.shape[3];
    const bool codes = p->features & (MFAI_KEY_CODES | MFAI_VALUE_CODES);
    const int64_t widest = mfai_max(p->head_dim, p->value_dim), coded = codes ? widest : 0;
    job.scratch.row = mfai_cpu_take(&job.scratch.size, mfai_max(2 * half, coded));
    job.scratch.cosines = mfai_cpu_take(&job.scratch.size, half);
    job.scratch.sines = mfai_cpu_take(&job.scratch.size, half);
    job.scratch.copy = mfai_cpu_take(&job.scratch.size, mfai_max(mfai_max(half, p->head_dim), coded));
    job.scratch.highs = mfai_cpu_take(&job.scratch.size, coded);
    job.scratch.lows = mfai_cpu_take(&job.scratch.size, coded);
    job.scratch.scales = mfai_cpu_take(&job.scratch.size, coded);
    job.scratch.zero_points = mfai_cpu_take(&job.scratch.size, coded);
    job.scratch.mean = mfai_cpu_take(&job.scratch.size, coded);
    job.scratch.bytes = mfai_cpu_take(&job.scratch.size, codes ? widest / 4 + 1 : 0);
    *workspace = 0;
    mfai_cpu_take(workspace, job.width * job.scratch.size);
    if (job.turns) {
        const int64_t *shape = p->query.shape;
        int64_t step = 1;
        for (int axis = 3; axis >= 0; --axis) {
            job.queries.stride[axis] = step;
            step *= shape[axis];
        }
        job.queries.buffer = NULL;
        mfai_cpu_take(workspace, floats_of(&p->query, step));
    }
    return job;
}

void mfai_cpu_append(mfai_cpu_append_job_t *job, char *memory, mfai_problem_t *left) {
    job->memory = memory;
    if (job->turns)
        job->queries.data = memory + mfai_cpu_lines(job->width * job->scratch.size) * (int64_t)sizeof(float);
    mfai_parallel_for(job->width, job->tasks, job->run, job);
    *left = *job->problem;
    left->query = job->queries;
}

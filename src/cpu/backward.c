/* Plans a backward call for the CPU: kernel, partition and scratch memory, then runs its tasks. */
#include "cpu/backward.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attn/rows.h"
#include "core/limits.h"
#include "cpu/constants.h"
#include "cpu/dropout.h"
#include "cpu/fill.h"
#include "cpu/sizes.h"
#include "cpu/threads.h"

enum {
    BLOCK_FLOATS = 6 << 15, /* what a block of keys and its scores take, of a second-level cache of 1 MiB */
    WANTED_TASKS = 16,      /* for each thread, between two points where all threads meet */
    UNIT_PANELS = 3,        /* of keys: whole register tiles of keys fit in them */
    SMALL_BLOCKS_ROWS = 24, /* rows of a tile of several rows of blocks, which few keys may have in common */
};
_Static_assert((int)MFAI_CPU_BACKWARD_KEYS <= (int)MFAI_ROWS_MOST, "rows of one table");
_Static_assert((int)MFAI_CPU_BACKWARD_ROWS <= (int)MFAI_ROWS_MOST, "rows of one table");
static const int64_t most_floats = INT64_MAX / 64; /* no machine has so many, and sums of a few stay in 64 bits */

/* One run over the tiles of the scores: for dquery, dkey and dvalue, or for dbias. */
typedef struct {
    const mfai_cpu_kernels_t *kernels;
    mfai_cpu_backward_job_t job;
    int64_t tasks;
    int slots;
    int64_t delta, taint, reference, dquery, turns,
        size; /* offsets in floats into the workspace, behind the slots' scratch */
} pass_t;

/* The size of tiles along an axis of `count`, `size` without blocks, so that few tiles lie in two blocks: as many
   blocks as fit in `fitting`, or one, or an equal part of one that is more than `most`. */
static int64_t follow_blocks(int64_t block, int64_t count, int64_t size, int64_t fitting, int64_t most) {
    if (count <= size)
        return size;
    if (block <= most)
        return mfai_max(fitting / block, 1) * block;
    for (int64_t least = mfai_ceil_div(block, most), parts = least; parts < 2 * least; ++parts)
        if (block % parts == 0)
            return block / parts;
    return size;
}

static mfai_cpu_backward_shape_t find_shape(const mfai_problem_t *p, const mfai_cpu_tile_t *tile) {
    mfai_cpu_backward_shape_t s = {0};
    s.query_words = mfai_round_up(mfai_ceil_div(p->head_dim, tile->word_depth), tile->lanes);
    s.value_words = mfai_round_up(mfai_ceil_div(p->value_dim, tile->word_depth), tile->lanes);
    s.query_width = mfai_round_up(p->head_dim, tile->panel);
    s.value_width = mfai_round_up(p->value_dim, tile->panel);

    s.row_blocks = mfai_ceil_div(p->query_count, MFAI_CPU_BACKWARD_ROWS);
    s.block_rows = tile->sub_rows;
    if (s.row_blocks > 0)
        s.block_rows = mfai_round_up(mfai_ceil_div(p->query_count, s.row_blocks), tile->sub_rows);
    if (p->features & MFAI_BLOCKS)
        s.block_rows =
            follow_blocks(p->block_rows, p->query_count, s.block_rows, SMALL_BLOCKS_ROWS, MFAI_CPU_BACKWARD_ROWS);
    s.row_blocks = mfai_ceil_div(p->query_count, s.block_rows);

    const int64_t unit = (int64_t)UNIT_PANELS * tile->panel;
    const int64_t per_key = 2 * (s.query_words + s.value_words + s.query_width) + 2 * MFAI_CPU_BACKWARD_ROWS;
    const int64_t most = mfai_clamp(BLOCK_FLOATS / per_key / unit * unit, tile->panel, MFAI_CPU_BACKWARD_KEYS);
    s.key_blocks = mfai_ceil_div(p->key_count, most);
    s.block_keys = tile->panel;
    if (s.key_blocks > 0)
        s.block_keys = mfai_round_up(mfai_ceil_div(p->key_count, s.key_blocks), tile->panel);
    if (p->features & MFAI_BLOCKS)
        s.block_keys = follow_blocks(p->block_keys, p->key_count, s.block_keys, most, most);
    s.key_blocks = mfai_ceil_div(p->key_count, s.block_keys);
    /* An odd number of cache lines, so that a column does not fall into few sets of the cache. */
    s.stride = mfai_round_up(s.block_keys, tile->panel) + 16;
    return s;
}

static mfai_cpu_backward_scratch_t lay_out(const mfai_cpu_backward_job_t *job, const mfai_cpu_tile_t *tile) {
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_backward_shape_t *s = &job->shape;
    const int64_t rows = mfai_round_up(s->block_rows, tile->sub_rows), keys = mfai_round_up(s->block_keys, tile->panel);
    const int64_t products = job->bias_pass ? 0 : 1;
    const int64_t widest = mfai_max(mfai_round_up(p->head_dim, tile->panel), mfai_round_up(p->value_dim, tile->panel));
    const bool contiguous = mfai_rows_are_contiguous(&p->query) && mfai_rows_are_contiguous(&p->key) &&
                            mfai_rows_are_contiguous(&p->value) && mfai_rows_are_contiguous(&p->dout);
    const int64_t scores = rows * s->stride;
    mfai_cpu_backward_scratch_t at = {0};
    at.query_rows = mfai_cpu_take(&at.size, rows * s->query_words);
    at.query_panels = mfai_cpu_take(&at.size, products * rows * s->query_width);
    at.dout_rows = mfai_cpu_take(&at.size, rows * s->value_words);
    at.dout_panels = mfai_cpu_take(&at.size, products * rows * s->value_width);
    at.key_columns = mfai_cpu_take(&at.size, keys * s->query_words);
    at.key_panels = mfai_cpu_take(&at.size, products * keys * s->query_width);
    at.value_columns = mfai_cpu_take(&at.size, keys * s->value_words);
    at.dkey = mfai_cpu_take(&at.size, products * keys * s->query_width);
    at.dvalue = mfai_cpu_take(&at.size, products * keys * s->value_width);
    at.scores = mfai_cpu_take(&at.size, scores);
    at.dscores = mfai_cpu_take(&at.size, scores);
    at.dscore_rows = mfai_cpu_take(&at.size, tile->word_depth > 1 ? scores : 0);
    at.sums = mfai_cpu_take(&at.size, job->bias_pass ? scores : 0);
    at.bias = mfai_cpu_take(&at.size, job->has_bias ? scores : 0);
    at.drop_factors = mfai_cpu_take(&at.size, job->dropout.on ? tile->word_depth * s->stride : 0);
    at.rows = mfai_cpu_take(&at.size, MFAI_CPU_ROW_TABLE_FLOATS);
    at.copy = mfai_cpu_take(&at.size, contiguous ? 0 : mfai_max(rows, keys) * widest);
    at.zeros = mfai_cpu_take(&at.size, widest);
    at.size = mfai_max(at.size, mfai_cpu_lines(4 * p->value_dim)); /* into which backward_prepare copies rows */
    return at;
}

/* Of all heads, as the operands have them: sequences may leave some out. */
static int64_t row_count(const mfai_problem_t *p) { return p->query.shape[0] * p->heads * p->query.shape[2]; }

static int64_t head_count(const mfai_problem_t *p) { return p->batch * p->kv_heads; }

static int64_t prepare_tasks(const mfai_problem_t *p) {
    return p->batch * p->heads * mfai_ceil_div(p->query_count, MFAI_CPU_PREPARE_ROWS);
}

static int64_t bias_tasks(const mfai_view_t *dbias, const mfai_cpu_backward_shape_t *shape) {
    const int64_t rows = dbias->shape[2] == 1 ? 1 : shape->row_blocks;
    const int64_t keys = dbias->shape[3] == 1 ? 1 : shape->key_blocks;
    return dbias->shape[0] * dbias->shape[1] * rows * keys;
}

/* Sums of dquery are kept in it where whole vectors fit its rows, and in the workspace otherwise. */
static bool adds_in_place(const mfai_view_t *dquery, const mfai_cpu_tile_t *tile) {
    return dquery->format == MFAI_FORMAT_FP32 && dquery->stride[3] == 1 && dquery->shape[3] % tile->lanes == 0;
}

static mfa_status_t plan_pass(const mfai_cpu_device_t *device, const mfai_cpu_kernels_t *kernels,
                              const mfai_problem_t *p, bool bias_pass, pass_t *pass) {
    *pass = (pass_t){.kernels = kernels};
    mfai_cpu_backward_job_t *job = &pass->job;
    *job = (mfai_cpu_backward_job_t){.problem = p, .bias_pass = bias_pass};
    job->shape = find_shape(p, &kernels->tile);
    job->has_bias = p->features & (MFAI_BIASES | MFAI_HIDING);
    const double factor = p->softmax_scale * MFA_LOG2_E_DOUBLE;
    job->factor = (float)factor;
    job->factor_rest = (float)(factor - job->factor);
    job->finish_scores = p->features & MFAI_BIASES || p->softcap > 0 || !isfinite(job->factor);
    job->dropout = mfai_cpu_dropout(p);
    job->scratch = lay_out(job, &kernels->tile);

    const int64_t rows = row_count(p);
    if (rows > most_floats / 4 / job->shape.query_width)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a workspace for %" PRId64 " rows", rows);
    const int64_t main_tasks = head_count(p) * job->shape.key_blocks;
    pass->tasks = bias_pass ? bias_tasks(&p->dbias, &job->shape) : main_tasks;
    pass->slots = (int)mfai_clamp(mfai_max(pass->tasks, prepare_tasks(p)), 1, device->num_threads);

    /* No more heads at a time than keep the threads busy: each holds its sums of dquery. */
    const bool sums = !bias_pass && p->dquery.present && !adds_in_place(&p->dquery, &kernels->tile);
    job->heads = head_count(p);
    if (sums && job->shape.key_blocks > 0 && p->query.layout == NULL)
        job->heads =
            mfai_clamp(mfai_ceil_div((int64_t)WANTED_TASKS * pass->slots, job->shape.key_blocks), 1, job->heads);
    pass->delta = pass->slots * job->scratch.size;
    pass->taint = pass->delta + mfai_cpu_lines(rows);
    pass->reference = pass->taint + mfai_cpu_lines(rows);
    pass->dquery = pass->reference + mfai_cpu_lines(rows);
    const int64_t summed_rows = !sums ? 0 : p->query.layout != NULL ? rows : job->heads * p->group * p->query_count;
    pass->turns = pass->dquery + mfai_cpu_lines(summed_rows * job->shape.query_width);
    pass->size = pass->turns + (bias_pass ? 0 : mfai_cpu_lines(p->batch * p->heads * job->shape.row_blocks));
    return MFA_SUCCESS;
}

typedef struct {
    bool has_main, has_bias;
    pass_t main, bias;
    int64_t workspace_floats;
} backward_plan_t;

/* Masks are seldom small, so dbias is computed in float32 whatever the inputs are. */
static mfa_status_t make_plan(const mfai_cpu_device_t *device, const mfai_problem_t *p, backward_plan_t *plan) {
    MFAI_TRY(mfai_check_head_dims("CPU", p));
    const mfai_cpu_isa_t *isa = device->isa;
    const bool pairs = isa->bfloat16 != NULL && p->query.format == MFAI_FORMAT_BF16 &&
                       p->dout.format == MFAI_FORMAT_BF16 && !(p->features & MFAI_EXACT_WEIGHTS);
    plan->has_bias = p->dbias.present;
    plan->has_main = p->dquery.present || p->dkey.present || p->dvalue.present || p->dsinks.present || !plan->has_bias;
    plan->workspace_floats = 0;
    if (plan->has_main)
        MFAI_TRY(plan_pass(device, pairs ? isa->bfloat16 : isa->float32, p, false, &plan->main));
    if (plan->has_bias)
        MFAI_TRY(plan_pass(device, isa->float32, p, true, &plan->bias));
    plan->workspace_floats = mfai_max(plan->has_main ? plan->main.size : 0, plan->has_bias ? plan->bias.size : 0);
    return MFA_SUCCESS;
}

mfa_status_t mfai_cpu_backward_plan(const mfai_cpu_device_t *device, const mfai_problem_t *problem, mfa_plan_t *out) {
    backward_plan_t plan;
    MFAI_TRY(make_plan(device, problem, &plan));
    const pass_t *pass = plan.has_main ? &plan.main : &plan.bias;
    out->tile_queries = (int32_t)pass->job.shape.block_rows;
    out->tile_keys = (int32_t)pass->job.shape.block_keys;
    out->key_splits = (int32_t)mfai_clamp(pass->job.shape.key_blocks, 1, INT32_MAX);
    out->num_threads = pass->slots;
    out->workspace_bytes = (uint64_t)plan.workspace_floats * sizeof(float);
    snprintf(out->kernel, sizeof out->kernel, "backward_%s", pass->kernels->name);
    snprintf(out->isa, sizeof out->isa, "%s", device->isa->name);
    return MFA_SUCCESS;
}

static void run_pass(pass_t *pass, float *workspace) {
    mfai_cpu_backward_job_t *job = &pass->job;
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_kernels_t *kernels = pass->kernels;
    job->memory = (char *)workspace;
    job->delta = workspace + pass->delta;
    job->taint = workspace + pass->taint;
    job->reference = workspace + pass->reference;
    job->dquery = pass->turns > pass->dquery ? workspace + pass->dquery : NULL;
    job->turns = (uint32_t *)(workspace + pass->turns);
    mfai_parallel_for(pass->slots, prepare_tasks(p), kernels->backward_prepare, job);
    if (job->bias_pass) {
        mfai_parallel_for(pass->slots, pass->tasks, kernels->backward_bias, job);
        return;
    }
    memset(job->turns, 0, (size_t)(pass->size - pass->turns) * sizeof *job->turns);
    const int64_t most = job->heads, blocks = mfai_ceil_div(p->query_count, MFAI_CPU_PREPARE_ROWS);
    if (p->dquery.present || p->dkey.present || p->dvalue.present)
        for (job->first_head = 0; job->first_head < head_count(p); job->first_head += most) {
            job->heads = mfai_clamp(head_count(p) - job->first_head, 0, most);
            mfai_parallel_for(pass->slots, job->heads * job->shape.key_blocks, kernels->backward, job);
            if (job->dquery != NULL)
                mfai_parallel_for(pass->slots, job->heads * p->group * blocks, kernels->backward_finish, job);
        }
    if (p->dsinks.present)
        mfai_parallel_for(pass->slots, p->heads, kernels->backward_sinks, job);
}

mfa_status_t mfai_cpu_backward(mfai_cpu_device_t *device, const mfai_problem_t *problem) {
    backward_plan_t plan;
    MFAI_TRY(make_plan(device, problem, &plan));
    mfai_workspace_t *workspace =
        mfai_workspace_take(&device->workspaces, (size_t)plan.workspace_floats * sizeof(float));
    if (workspace == NULL)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a workspace of %" PRId64 " bytes",
                         plan.workspace_floats * (int64_t)sizeof(float));
    float *memory = (float *)mfai_workspace_memory(workspace);
    mfai_cpu_fill(problem, device->num_threads);
    if (plan.has_main)
        run_pass(&plan.main, memory);
    if (plan.has_bias)
        run_pass(&plan.bias, memory);
    mfai_workspace_give(&device->workspaces, workspace);
    return MFA_SUCCESS;
}

/* Plans a backward call for the CPU: kernel, partition and scratch memory, then runs its tasks. */
#include "cpu/backward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/extent.h"
#include "attn/rows.h"
#include "core/limits.h"
#include "cpu/code_scales.h"
#include "cpu/constants.h"
#include "cpu/dropout.h"
#include "cpu/fill.h"
#include "cpu/sizes.h"
#include "cpu/threads.h"

enum {
    BLOCK_FLOATS = 6 << 15, /* what a block of keys and its scores take, of a second-level cache of 1 MiB */
    WANTED_TASKS = 8,       /* for each thread, between two points where all threads meet */
    UNIT_PANELS = 3,        /* of keys: whole register tiles of keys fit in them */
    SMALL_BLOCKS_ROWS = 24, /* rows of a tile of several rows of blocks, which few keys may have in common */
    MOST_PARTS_TRIED = 1 << 10,
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
    int64_t rows, row_blocks, prepare_blocks, key_blocks; /* of one head, in all sequences together */
    int64_t most_key_blocks;                              /* of one */
    int64_t delta, taint, dquery, turns, sequences, block_tasks,
        size; /* offsets in floats into the workspace, behind the slots' scratch */
} pass_t;

/* The size of tiles along an axis of `count`, `size` without blocks, so that few tiles lie in two blocks: as many
   blocks as fit in `fitting`, or one, or an equal part of one that is more than `most`. A block that has all of the axis
   may be of any size. */
static int64_t follow_blocks(int64_t block, int64_t count, int64_t size, int64_t fitting, int64_t most) {
    if (count <= size || block >= count)
        return size;
    if (block <= most)
        return mfai_max(fitting / block, 1) * block;
    const int64_t least = mfai_ceil_div(block, most), end = least + mfai_clamp(least, 0, MOST_PARTS_TRIED);
    for (int64_t parts = least; parts < end; ++parts)
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
    s.word_stride = mfai_round_up(s.block_keys, tile->panel) / tile->word_depth + 16;
    return s;
}

static mfai_cpu_backward_scratch_t lay_out(const mfai_cpu_backward_job_t *job, const mfai_cpu_tile_t *tile) {
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_backward_shape_t *s = &job->shape;
    const int64_t rows = mfai_round_up(s->block_rows, tile->sub_rows), keys = mfai_round_up(s->block_keys, tile->panel);
    const int64_t row_words = rows / tile->word_depth, key_words = keys / tile->word_depth; /* of panels */
    const int64_t products = job->bias_pass ? 0 : 1;
    const int64_t widest = mfai_max(mfai_round_up(p->head_dim, tile->panel), mfai_round_up(p->value_dim, tile->panel));
    const bool in_place = !(p->features & (MFAI_KEY_CODES | MFAI_VALUE_CODES)) && mfai_rows_are_contiguous(&p->query) &&
                          mfai_rows_are_contiguous(&p->key) && mfai_rows_are_contiguous(&p->value) &&
                          mfai_rows_are_contiguous(&p->dout);
    const int64_t scores = rows * s->stride;
    mfai_cpu_backward_scratch_t at = {0};
    at.query_rows = mfai_cpu_take(&at.size, rows * s->query_words);
    at.query_panels = mfai_cpu_take(&at.size, products * row_words * s->query_width);
    at.dout_rows = mfai_cpu_take(&at.size, rows * s->value_words);
    at.dout_panels = mfai_cpu_take(&at.size, products * row_words * s->value_width);
    at.key_columns = mfai_cpu_take(&at.size, keys * s->query_words);
    at.key_panels = mfai_cpu_take(&at.size, products * key_words * s->query_width);
    at.value_columns = mfai_cpu_take(&at.size, keys * s->value_words);
    at.dkey = mfai_cpu_take(&at.size, products * keys * s->query_width);
    at.dvalue = mfai_cpu_take(&at.size, products * keys * s->value_width);
    at.scores = mfai_cpu_take(&at.size, scores);
    at.dscores = mfai_cpu_take(&at.size, scores);
    at.dscore_rows = mfai_cpu_take(&at.size, tile->word_depth > 1 ? products * rows * s->word_stride : 0);
    at.sums = mfai_cpu_take(&at.size, job->bias_pass ? scores : 0);
    at.bias = mfai_cpu_take(&at.size, job->has_bias ? scores : 0);
    at.drop_factors = mfai_cpu_take(&at.size, job->dropout.on ? tile->word_depth * s->stride : 0);
    at.rows = mfai_cpu_take(&at.size, MFAI_CPU_ROW_TABLE_FLOATS);
    at.copy = mfai_cpu_take(&at.size, in_place ? 0 : mfai_max(rows, keys) * widest);
    at.codes =
        mfai_cpu_take(&at.size, mfai_max(mfai_cpu_code_floats(&p->key, &p->key_quantization, s->block_keys),
                                         mfai_cpu_code_floats(&p->value, &p->value_quantization, s->block_keys)));
    at.zeros = mfai_cpu_take(&at.size, widest);
    at.size = mfai_max(at.size, mfai_cpu_lines(4 * p->value_dim)); /* into which backward_prepare copies rows */
    return at;
}

static int64_t head_count(const mfai_problem_t *p) { return p->batch * p->kv_heads; }

static mfai_cpu_backward_sequence_t find_sequence(const mfai_cpu_backward_job_t *job, int64_t batch) {
    const mfa_extent extent = mfai_extent_of(job->problem, batch);
    return (mfai_cpu_backward_sequence_t){
        .batch = batch,
        .queries = extent.query_count,
        .keys = extent.key_count,
        .row_blocks = mfai_ceil_div(extent.query_count, job->shape.block_rows),
        .key_blocks = mfai_ceil_div(extent.key_count, job->shape.block_keys),
        .prepare_blocks = mfai_ceil_div(extent.query_count, MFAI_CPU_PREPARE_ROWS),
    };
}

/* Adds up what `count` such sequences have. */
static void count_sequences(pass_t *pass, const mfai_cpu_backward_sequence_t *sequence, int64_t count) {
    pass->rows += count * sequence->queries;
    pass->row_blocks += count * sequence->row_blocks;
    pass->prepare_blocks += count * sequence->prepare_blocks;
    pass->key_blocks += count * sequence->key_blocks;
    pass->most_key_blocks = mfai_max(pass->most_key_blocks, sequence->key_blocks);
}

/* Returns the most rows that one key/value head has. */
static int64_t count_all_sequences(pass_t *pass) {
    const mfai_problem_t *p = pass->job.problem;
    if (p->lengths == NULL) {
        pass->job.alike = find_sequence(&pass->job, 0);
        count_sequences(pass, &pass->job.alike, p->batch);
        return p->group * p->query_count;
    }
    int64_t most_rows = 0;
    for (int64_t b = 0; b < p->batch; ++b) {
        const mfai_cpu_backward_sequence_t sequence = find_sequence(&pass->job, b);
        count_sequences(pass, &sequence, 1);
        most_rows = mfai_max(most_rows, p->group * sequence.queries);
    }
    return most_rows;
}

static int by_key_blocks(const void *one, const void *other) {
    const mfai_cpu_backward_sequence_t *a = one, *b = other;
    return a->key_blocks != b->key_blocks ? (a->key_blocks < b->key_blocks) - (a->key_blocks > b->key_blocks)
                                          : (a->batch > b->batch) - (a->batch < b->batch);
}

/* The table of sequences; `memory` has room for it. */
static void fill_sequences(mfai_cpu_backward_job_t *job, mfai_cpu_backward_sequence_t *memory) {
    const int64_t count = job->problem->batch;
    if (job->problem->lengths == NULL)
        return;
    for (int64_t b = 0; b < count; ++b)
        memory[b] = find_sequence(job, b);
    if (!job->bias_pass)
        qsort(memory, (size_t)count, sizeof *memory, by_key_blocks);
    for (int64_t i = 1; i < count; ++i) {
        const mfai_cpu_backward_sequence_t *before = &memory[i - 1];
        memory[i].rows_before = before->rows_before + before->queries;
        memory[i].row_blocks_before = before->row_blocks_before + before->row_blocks;
        memory[i].prepare_blocks_before = before->prepare_blocks_before + before->prepare_blocks;
    }
    job->sequences = memory;
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

    const int64_t most_rows = count_all_sequences(pass), rows = p->heads * pass->rows;
    if (rows > most_floats / 4 / job->shape.query_width)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a workspace for %" PRId64 " rows", rows);
    pass->prepare_blocks *= p->heads;
    pass->tasks = bias_pass ? bias_tasks(&p->dbias, &job->shape) : p->kv_heads * pass->key_blocks;
    pass->slots = (int)mfai_clamp(mfai_max(pass->tasks, pass->prepare_blocks), 1, device->num_threads);

    /* No more heads at a time than keep the threads busy: each holds its sums of dquery. */
    if (!bias_pass && p->dquery.present && !adds_in_place(&p->dquery, &kernels->tile)) {
        const double share = (double)WANTED_TASKS * pass->slots / (double)mfai_max(pass->tasks, 1);
        const int64_t count = mfai_max(head_count(p), 1);
        const int64_t most = mfai_clamp((int64_t)ceil(share * (double)count), 1, count);
        const int64_t heads = mfai_ceil_div(count, mfai_ceil_div(count, most)); /* as many each time */
        job->sum_rows =
            mfai_clamp(p->lengths == NULL ? heads * most_rows : (int64_t)ceil(share * (double)rows), most_rows, rows);
    }
    pass->delta = pass->slots * job->scratch.size;
    pass->taint = pass->delta + mfai_cpu_lines(rows);
    pass->dquery = pass->taint + mfai_cpu_lines(rows);
    pass->turns = pass->dquery + mfai_cpu_lines(job->sum_rows * job->shape.query_width);
    pass->sequences = pass->turns + (bias_pass ? 0 : mfai_cpu_lines(p->heads * pass->row_blocks));
    const int64_t in_table = p->lengths == NULL ? 0 : p->batch;
    pass->block_tasks = pass->sequences + mfai_cpu_lines(in_table * (int64_t)(sizeof *job->sequences / sizeof(float)));
    pass->size = pass->block_tasks +
                 mfai_cpu_lines((pass->most_key_blocks + 1) * (int64_t)(sizeof *job->block_tasks / sizeof(float)));
    return MFA_SUCCESS;
}

typedef struct {
    bool has_main, has_bias;
    pass_t main, bias;
    int64_t workspace_floats;
} backward_plan_t;

/* Where the forward pass rounded to 8 bits, no more is asked of 16: half becomes bfloat16. */
static bool is_paired(const mfai_view_t *view, const mfai_problem_t *p) {
    return view->format == MFAI_FORMAT_BF16 || (view->format == MFAI_FORMAT_FP16 && p->features & MFAI_INT8);
}

/* Masks are seldom small, so dbias is computed in float32 whatever the inputs are. */
static mfa_status_t make_plan(const mfai_cpu_device_t *device, const mfai_problem_t *p, backward_plan_t *plan) {
    *plan = (backward_plan_t){0};
    MFAI_TRY(mfai_check_head_dims("CPU", p));
    const mfai_cpu_isa_t *isa = device->isa;
    const bool pairs = isa->bfloat16 != NULL && is_paired(&p->query, p) && is_paired(&p->dout, p) &&
                       !(p->features & MFAI_EXACT_WEIGHTS);
    plan->has_bias = p->dbias.present;
    plan->has_main = p->dquery.present || p->dkey.present || p->dvalue.present || p->dsinks.present || !plan->has_bias;
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
    out->key_splits = (int32_t)mfai_clamp(pass->most_key_blocks, 1, INT32_MAX);
    out->num_threads = pass->slots;
    out->workspace_bytes = (uint64_t)plan.workspace_floats * sizeof(float);
    snprintf(out->kernel, sizeof out->kernel, "backward_%s", pass->kernels->name);
    snprintf(out->isa, sizeof out->isa, "%s", device->isa->name);
    return MFA_SUCCESS;
}

/* The number of the first row of a key/value head, counted over all sequences. */
static int64_t first_row(const mfai_cpu_backward_job_t *job, int64_t head) {
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_backward_sequence_t sequence = mfai_cpu_backward_sequence(job, head / p->kv_heads);
    return mfai_cpu_backward_row(job, &sequence, head % p->kv_heads * p->group, 0);
}

/* Blocks of rows of the heads before this one, as backward_finish takes them. */
static int64_t first_block(const pass_t *pass, int64_t head) {
    const mfai_problem_t *p = pass->job.problem;
    if (head == head_count(p))
        return pass->prepare_blocks;
    const mfai_cpu_backward_sequence_t sequence = mfai_cpu_backward_sequence(&pass->job, head / p->kv_heads);
    return p->heads * sequence.prepare_blocks_before + head % p->kv_heads * p->group * sequence.prepare_blocks;
}

/* Chooses heads from first_head on for whose sums there is room, and counts their tasks. */
static int64_t choose_heads(const pass_t *pass, mfai_cpu_backward_job_t *job) {
    const mfai_problem_t *p = job->problem;
    const int64_t first = job->first_head, most = head_count(p);
    const int64_t begin = first_row(job, first), rows = p->heads * pass->rows;
    int64_t heads = job->dquery == NULL ? most - first : 1;
    while (first + heads < most &&
           (first + heads + 1 < most ? first_row(job, first + heads + 1) : rows) - begin <= job->sum_rows)
        ++heads;
    job->heads = heads;
    job->first_block = first_block(pass, first);
    job->most_blocks = mfai_cpu_backward_sequence(job, first / p->kv_heads).key_blocks;
    job->block_tasks[0] = 0;
    for (int64_t k = 0; k < job->most_blocks; ++k) {
        while (mfai_cpu_backward_sequence(job, (first + heads - 1) / p->kv_heads).key_blocks <= k)
            --heads;
        job->block_tasks[k + 1] = job->block_tasks[k] + heads;
    }
    return job->block_tasks[job->most_blocks];
}

static void run_pass(pass_t *pass, float *workspace) {
    mfai_cpu_backward_job_t *job = &pass->job;
    const mfai_problem_t *p = job->problem;
    const mfai_cpu_kernels_t *kernels = pass->kernels;
    job->memory = (char *)workspace;
    job->delta = workspace + pass->delta;
    job->taint = workspace + pass->taint;
    job->dquery = job->sum_rows > 0 ? workspace + pass->dquery : NULL;
    job->turns = (uint32_t *)(workspace + pass->turns);
    job->block_tasks = (int64_t *)(workspace + pass->block_tasks);
    fill_sequences(job, (mfai_cpu_backward_sequence_t *)(workspace + pass->sequences));
    mfai_parallel_for(pass->slots, pass->prepare_blocks, kernels->backward_prepare, job);
    if (job->bias_pass) {
        mfai_parallel_for(pass->slots, pass->tasks, kernels->backward_bias, job);
        return;
    }
    memset(job->turns, 0, (size_t)(pass->sequences - pass->turns) * sizeof *job->turns);
    if (p->dquery.present || p->dkey.present || p->dvalue.present)
        for (job->first_head = 0; job->first_head < head_count(p); job->first_head += job->heads) {
            mfai_parallel_for(pass->slots, choose_heads(pass, job), kernels->backward, job);
            if (job->dquery != NULL)
                mfai_parallel_for(pass->slots, first_block(pass, job->first_head + job->heads) - job->first_block,
                                  kernels->backward_finish, job);
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

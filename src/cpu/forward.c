/* Plans a forward call for the CPU: kernel, partition and scratch memory, then runs its tasks. */
#include "cpu/forward.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "attn/blocks.h"
#include "attn/rows.h"
#include "core/limits.h"
#include "cpu/append.h"
#include "cpu/constants.h"
#include "cpu/dropout.h"
#include "cpu/fill.h"
#include "cpu/sizes.h"
#include "cpu/threads.h"

enum {
    DIRECT_MOST_ROWS = 16,
    WANTED_DIRECT_TASKS = 64, /* these share nothing, so more of them cost little */
    WANTED_TASKS = 24,        /* enough for balance on common widths, few enough that packing is shared */
    LEAST_SUB_BLOCKS = 4,     /* query sub-blocks in a chunk: each chunk packs the keys anew */
    MOST_SUB_BLOCKS = 22,
    LEAST_LINE_ROWS = 12,   /* in a sub-block, whatever the blocks */
    CHUNK_FLOATS = 1 << 18, /* queries and sums of a chunk: 1 MiB, about a second-level cache */
    BLOCK_FLOATS = 1 << 17, /* packed keys and values of a block */
    MOST_BLOCK_KEYS = MFAI_ROWS_MOST,
    LEAST_SPLIT_KEYS = 512,
};

/* Whether so few rows share a key that packing it would cost more than the products. */
static bool is_direct(const mfai_problem_t *p) { return p->group * p->query_count <= DIRECT_MOST_ROWS; }

/* Heads that share keys but not blocks go separate ways, unless they are so few rows that reading keys is all. */
static int64_t heads_together(const mfai_problem_t *p) {
    const bool differ = p->features & MFAI_BLOCKS && mfai_blocks_differ(p, 1);
    return differ && !is_direct(p) ? 1 : p->group;
}

static const mfai_cpu_kernels_t *choose_kernel(const mfai_cpu_isa_t *isa, const mfai_problem_t *p) {
    const bool pairs =
        isa->bfloat16 != NULL && p->query.format == MFAI_FORMAT_BF16 && !(p->features & MFAI_EXACT_WEIGHTS);
    return pairs ? isa->bfloat16 : isa->float32;
}

/* Rows of blocks are not cut by chunks and sub-blocks if these need not be much smaller for it. */
static void follow_lines(const mfai_problem_t *p, int64_t most_rows, mfai_cpu_forward_shape_t *s) {
    if (!(p->features & MFAI_BLOCKS) || p->block_rows > INT32_MAX || is_direct(p))
        return;
    const int64_t rows = p->block_rows * s->group;
    s->line_rows = rows >= LEAST_LINE_ROWS ? rows : 0;
    if (rows <= most_rows)
        s->chunk_rows = mfai_max(s->chunk_rows / rows, 1) * rows;
}

static mfai_cpu_forward_shape_t find_shape(const mfai_problem_t *p, const mfai_cpu_tile_t *tile) {
    mfai_cpu_forward_shape_t s = {0};
    s.group = heads_together(p);
    const int64_t heads = p->batch * (p->heads / s.group);
    s.rows = s.group * p->query_count;
    s.key_words = mfai_round_up(mfai_ceil_div(p->head_dim, tile->word_depth), tile->lanes);
    s.query_words = s.key_words;
    if (p->query_value.present)
        s.query_words += mfai_round_up(mfai_ceil_div(p->value_dim, tile->word_depth), tile->lanes);
    s.value_width = mfai_round_up(p->value_dim, tile->panel);
    const int64_t words = s.query_words + s.value_width;

    const int64_t most_rows =
        mfai_clamp(CHUNK_FLOATS / words, tile->sub_rows, (int64_t)MOST_SUB_BLOCKS * tile->sub_rows);
    const int64_t least_rows = mfai_clamp((int64_t)LEAST_SUB_BLOCKS * tile->sub_rows, tile->sub_rows, most_rows);
    s.chunk_rows =
        mfai_round_up(mfai_clamp(mfai_ceil_div(heads * s.rows, WANTED_TASKS), least_rows, most_rows), tile->sub_rows);
    s.chunks = mfai_ceil_div(s.rows, s.chunk_rows);
    s.chunk_rows = s.chunks > 0 ? mfai_round_up(mfai_ceil_div(s.rows, s.chunks), tile->sub_rows) : tile->sub_rows;
    follow_lines(p, most_rows, &s);
    s.chunks = mfai_ceil_div(s.rows, s.chunk_rows);

    s.block_keys = mfai_clamp(BLOCK_FLOATS / words, tile->panel, MOST_BLOCK_KEYS) / tile->panel * tile->panel;
    s.block_keys =
        mfai_clamp(s.block_keys, tile->panel, mfai_round_up(mfai_clamp(p->key_count, 1, INT32_MAX), tile->panel));

    const int64_t row_tasks = heads * s.chunks, wanted = is_direct(p) ? WANTED_DIRECT_TASKS : WANTED_TASKS;
    s.splits = 1;
    s.split_keys = p->key_count;
    if (row_tasks > 0 && row_tasks < wanted / 2 && p->key_count >= 2 * LEAST_SPLIT_KEYS) {
        s.splits = mfai_clamp(mfai_ceil_div(wanted, row_tasks), 1, p->key_count / LEAST_SPLIT_KEYS);
        s.split_keys = mfai_round_up(mfai_ceil_div(p->key_count, s.splits), tile->panel);
        s.splits = mfai_ceil_div(p->key_count, s.split_keys);
    }
    s.tasks = row_tasks * s.splits;
    return s;
}

static mfai_cpu_forward_scratch_t lay_out(const mfai_problem_t *p, const mfai_cpu_forward_shape_t *s,
                                          const mfai_cpu_tile_t *tile, bool has_bias) {
    const int64_t scores = tile->sub_rows * s->block_keys;
    const int64_t widest = s->query_words > s->value_width ? s->query_words : s->value_width;
    const bool contiguous = mfai_rows_are_contiguous(&p->query) && mfai_rows_are_contiguous(&p->key) &&
                            mfai_rows_are_contiguous(&p->value) &&
                            (!p->query_value.present || mfai_rows_are_contiguous(&p->query_value));
    mfai_cpu_forward_scratch_t at = {0};
    at.query = mfai_cpu_take(&at.size, s->chunk_rows * s->query_words);
    at.out = mfai_cpu_take(&at.size, s->chunk_rows * s->value_width);
    at.row_max = mfai_cpu_take(&at.size, s->chunk_rows);
    at.row_sum = mfai_cpu_take(&at.size, s->chunk_rows);
    at.keys = mfai_cpu_take(&at.size, s->block_keys * s->query_words);
    at.values = mfai_cpu_take(&at.size, mfai_ceil_div(s->block_keys, tile->word_depth) * s->value_width);
    at.scores = mfai_cpu_take(&at.size, scores);
    at.value_scores = mfai_cpu_take(&at.size, p->query_value.present && is_direct(p) ? scores : 0);
    at.bias = mfai_cpu_take(&at.size, has_bias ? scores : 0);
    at.drop_factors = mfai_cpu_take(&at.size, p->dropout_p > 0 ? s->block_keys : 0);
    at.rows = mfai_cpu_take(&at.size, MFAI_CPU_ROW_TABLE_FLOATS);
    at.copy = mfai_cpu_take(&at.size, contiguous ? 0 : s->block_keys * widest);
    at.zeros = mfai_cpu_take(&at.size, widest);
    return at;
}

typedef struct {
    const mfai_cpu_kernels_t *kernel;
    mfai_cpu_forward_job_t job;
    int slots;
    int64_t partial_floats, workspace_floats;
    mfai_cpu_append_job_t append; /* comes first; its memory behind the rest */
    int64_t append_floats;
} forward_plan_t;

static mfa_status_t make_plan(const mfai_cpu_device_t *device, const mfai_problem_t *p, forward_plan_t *plan) {
    MFAI_TRY(mfai_check_head_dims("CPU", p));
    plan->kernel = choose_kernel(device->isa, p);
    mfai_cpu_forward_job_t *job = &plan->job;
    *job = (mfai_cpu_forward_job_t){.problem = p};
    job->shape = find_shape(p, &plan->kernel->tile);
    job->has_bias = p->features & (MFAI_BIASES | MFAI_HIDING);
    job->direct = is_direct(p);
    job->score_pass = p->features & MFAI_BIASES || p->softcap > 0 || p->query_scale.present || p->key_scale.present ||
                      p->softmax_scale == 0 || !isfinite(p->softmax_scale * MFA_LOG2_E);
    job->negate_query = !job->score_pass && p->softmax_scale < 0;
    job->score_factor = job->score_pass ? 1 : fabsf(p->softmax_scale) * MFA_LOG2_E;
    job->max_to_log2 = job->score_pass ? MFA_LOG2_E : 1;
    job->max_to_natural = job->score_pass ? 1 : MFA_LN_2;
    job->dropout = mfai_cpu_dropout(p);
    job->scratch = lay_out(p, &job->shape, &plan->kernel->tile, job->has_bias);

    plan->slots = (int)mfai_clamp(job->shape.tasks, 1, device->num_threads);
    const int64_t rows = p->batch * (p->heads / job->shape.group) * job->shape.rows;
    plan->partial_floats = job->shape.splits > 1 ? rows * job->shape.splits * (job->shape.value_width + 2) : 0;
    plan->append_floats = 0;
    if (p->features & MFAI_APPEND)
        plan->append = mfai_cpu_append_plan(device, p, &plan->append_floats);
    plan->workspace_floats =
        plan->slots * job->scratch.size + mfai_cpu_lines(plan->partial_floats) + plan->append_floats;
    return MFA_SUCCESS;
}

mfa_status_t mfai_cpu_forward_plan(const mfai_cpu_device_t *device, const mfai_problem_t *problem, mfa_plan_t *out) {
    forward_plan_t plan;
    MFAI_TRY(make_plan(device, problem, &plan));
    out->tile_queries = plan.kernel->tile.sub_rows;
    out->tile_keys = (int32_t)plan.job.shape.block_keys;
    out->key_splits = (int32_t)plan.job.shape.splits;
    out->num_threads = plan.slots;
    out->workspace_bytes = (uint64_t)plan.workspace_floats * sizeof(float);
    snprintf(out->kernel, sizeof out->kernel, "forward_%s", plan.kernel->name);
    snprintf(out->isa, sizeof out->isa, "%s", device->isa->name);
    return MFA_SUCCESS;
}

mfa_status_t mfai_cpu_forward(mfai_cpu_device_t *device, const mfai_problem_t *problem) {
    forward_plan_t plan;
    MFAI_TRY(make_plan(device, problem, &plan));
    const mfai_cpu_forward_shape_t *shape = &plan.job.shape;
    const bool needs_memory = shape->tasks > 0 || plan.append_floats > 0;
    mfai_workspace_t *workspace = NULL;
    if (needs_memory) {
        if ((uint64_t)plan.workspace_floats <= PTRDIFF_MAX / sizeof(float))
            workspace = mfai_workspace_take(&device->workspaces, (size_t)plan.workspace_floats * sizeof(float));
        if (workspace == NULL)
            return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a workspace of %" PRId64 " bytes",
                             plan.workspace_floats * (int64_t)sizeof(float));
    }
    mfai_cpu_fill(problem, device->num_threads);
    if (needs_memory) {
        plan.job.memory = mfai_workspace_memory(workspace);
        plan.job.partial = (float *)plan.job.memory + plan.slots * plan.job.scratch.size;
        mfai_problem_t appended;
        if (plan.append_floats > 0) {
            float *memory = plan.job.partial + mfai_cpu_lines(plan.partial_floats);
            appended = mfai_cpu_append(plan.kernel, &plan.append, (char *)memory);
            plan.job.problem = &appended;
        }
        mfai_parallel_for(plan.slots, shape->tasks, plan.kernel->forward, &plan.job);
        if (shape->splits > 1)
            mfai_parallel_for(
                plan.slots,
                mfai_ceil_div(problem->batch * problem->heads * problem->query_count, MFAI_CPU_COMBINE_ROWS),
                plan.kernel->combine, &plan.job);
        mfai_workspace_give(&device->workspaces, workspace);
    }
    return MFA_SUCCESS;
}

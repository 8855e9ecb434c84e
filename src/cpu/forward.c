/* Plans a forward call for the CPU: kernel, partition and scratch memory, then runs its tasks. */
#include "cpu/forward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/blocks.h"
#include "attn/extent.h"
#include "attn/rows.h"
#include "core/limits.h"
#include "cpu/append.h"
#include "cpu/code_scales.h"
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
    KEY_COST = 8, /* reading or packing a key takes the time of about so many scores */
};

/* Of so many tasks that a whole call is to have, those of a part of it. */
static int64_t share_of(int64_t tasks, double share) { return mfai_max(1, (int64_t)((double)tasks * share + 0.5)); }

static const mfai_cpu_kernels_t *choose_kernel(const mfai_cpu_isa_t *isa, const mfai_problem_t *p) {
    if (p->features & MFAI_INT8)
        return isa->int8;
    /* Codes become floats on their way to pairs, which few rows do not pay for. */
    const bool few_of_codes =
        p->features & (MFAI_KEY_CODES | MFAI_VALUE_CODES) && p->group * p->query_count <= DIRECT_MOST_ROWS;
    const bool pairs = isa->bfloat16 != NULL && p->query.format == MFAI_FORMAT_BF16 &&
                       !(p->features & MFAI_EXACT_WEIGHTS) && !few_of_codes;
    return pairs ? isa->bfloat16 : isa->float32;
}

/* Rows of blocks are not cut by chunks and sub-blocks if these need not be much smaller for it. */
static void follow_lines(const mfai_problem_t *p, int64_t most_rows, mfai_cpu_forward_part_t *part) {
    if (!(p->features & MFAI_BLOCKS) || p->block_rows > INT32_MAX || part->direct)
        return;
    const int64_t rows = p->block_rows * part->group;
    part->line_rows = rows >= LEAST_LINE_ROWS ? rows : 0;
    if (rows <= most_rows)
        part->chunk_rows = mfai_max(part->chunk_rows / rows, 1) * rows;
}

/* About how many scores' time the rows of a sequence take. */
static double find_cost(const mfai_problem_t *p, int64_t batch) {
    const mfa_extent extent = mfai_extent_of(p, batch);
    const int64_t rows = p->group * extent.query_count, some[] = {0, extent.query_count / 2, extent.query_count - 1};
    double keys = 0;
    for (int i = 0; i < 3 && rows > 0; ++i) {
        const mfa_span seen = mfa_rule_keys_of_row(extent, some[i]);
        keys += mfa_span_is_empty(seen) ? 0 : (double)(seen.end - seen.begin) / 3;
    }
    return (double)p->kv_heads * ((double)rows + KEY_COST) * (keys + 1);
}

/* The part of `batches` sequences from `batch` on, which cost so much of the whole. */
static mfai_cpu_forward_part_t find_part(const mfai_problem_t *p, const mfai_cpu_forward_shape_t *shape,
                                         const mfai_cpu_tile_t *tile, int64_t batch, int64_t batches, double share) {
    const mfa_extent extent = mfai_extent_of(p, batch);
    mfai_cpu_forward_part_t part = {.batch = batch, .batches = batches};
    part.direct = p->group * extent.query_count <= DIRECT_MOST_ROWS;
    /* Heads that share keys but not blocks go separate ways, unless they are so few rows that reading keys is all. */
    part.group = !part.direct && p->features & MFAI_BLOCKS && mfai_blocks_differ(p, 1) ? 1 : p->group;
    part.rows = part.group * extent.query_count;
    const int64_t sets = batches * (p->heads / part.group);
    const int64_t most_rows = mfai_clamp(CHUNK_FLOATS / (shape->query_words + shape->value_width), tile->sub_rows,
                                         (int64_t)MOST_SUB_BLOCKS * tile->sub_rows);
    const int64_t least_rows = mfai_clamp((int64_t)LEAST_SUB_BLOCKS * tile->sub_rows, tile->sub_rows, most_rows);
    const int64_t chunked = mfai_ceil_div(sets * part.rows, share_of(WANTED_TASKS, share));
    part.chunk_rows = mfai_round_up(mfai_clamp(chunked, least_rows, most_rows), tile->sub_rows);
    part.chunks = mfai_ceil_div(part.rows, part.chunk_rows);
    part.chunk_rows =
        part.chunks > 0 ? mfai_round_up(mfai_ceil_div(part.rows, part.chunks), tile->sub_rows) : tile->sub_rows;
    follow_lines(p, most_rows, &part);
    part.chunks = mfai_ceil_div(part.rows, part.chunk_rows);

    const int64_t row_tasks = sets * part.chunks;
    const int64_t wanted = share_of(part.direct ? WANTED_DIRECT_TASKS : WANTED_TASKS, share);
    part.splits = 1;
    part.split_keys = extent.key_count;
    if (row_tasks > 0 && row_tasks < wanted / 2 && extent.key_count >= 2 * LEAST_SPLIT_KEYS) {
        part.splits = mfai_clamp(mfai_ceil_div(wanted, row_tasks), 1, extent.key_count / LEAST_SPLIT_KEYS);
        part.split_keys = mfai_round_up(mfai_ceil_div(extent.key_count, part.splits), tile->panel);
        part.splits = mfai_ceil_div(extent.key_count, part.split_keys);
    }
    part.tasks = row_tasks * part.splits;
    part.combined_rows = part.splits > 1 ? sets * part.rows : 0;
    part.partial_rows = part.combined_rows * part.splits;
    return part;
}

static mfai_cpu_forward_shape_t find_shape(const mfai_problem_t *p, const mfai_cpu_tile_t *tile) {
    mfai_cpu_forward_shape_t s = {0};
    s.key_words = mfai_round_up(mfai_ceil_div(p->head_dim, tile->word_depth), tile->lanes);
    s.query_words = s.key_words;
    if (p->query_value.present)
        s.query_words += mfai_round_up(mfai_ceil_div(p->value_dim, tile->word_depth), tile->lanes);
    s.value_width = mfai_round_up(p->value_dim, tile->panel);
    const int64_t most_keys = p->features & MFAI_INT8 ? mfai_cpu_int8_most_keys(p, MOST_BLOCK_KEYS) : MOST_BLOCK_KEYS;
    s.block_keys =
        mfai_clamp(BLOCK_FLOATS / (s.query_words + s.value_width), tile->panel, most_keys) / tile->panel * tile->panel;
    s.block_keys =
        mfai_clamp(s.block_keys, tile->panel, mfai_round_up(mfai_clamp(p->key_count, 1, INT32_MAX), tile->panel));
    return s;
}

static mfai_cpu_forward_scratch_t lay_out(const mfai_problem_t *p, const mfai_cpu_forward_shape_t *s,
                                          const mfai_cpu_tile_t *tile, bool has_bias, mfai_cpu_int8_t *int8) {
    const int64_t scores = tile->sub_rows * s->block_keys;
    const int64_t widest = s->query_words > s->value_width ? s->query_words : s->value_width;
    const bool in_place = !(p->features & (MFAI_KEY_CODES | MFAI_VALUE_CODES)) && mfai_rows_are_contiguous(&p->query) &&
                          mfai_rows_are_contiguous(&p->key) && mfai_rows_are_contiguous(&p->value) &&
                          (!p->query_value.present || mfai_rows_are_contiguous(&p->query_value));
    mfai_cpu_forward_scratch_t at = {0};
    at.query = mfai_cpu_take(&at.size, s->chunk_rows * s->query_words);
    at.out = mfai_cpu_take(&at.size, s->chunk_rows * s->value_width);
    at.row_max = mfai_cpu_take(&at.size, s->chunk_rows);
    at.row_sum = mfai_cpu_take(&at.size, s->chunk_rows);
    at.keys = mfai_cpu_take(&at.size, s->block_keys * s->query_words);
    at.values = mfai_cpu_take(&at.size, mfai_ceil_div(s->block_keys, tile->word_depth) * s->value_width);
    at.scores = mfai_cpu_take(&at.size, scores);
    at.value_scores = mfai_cpu_take(&at.size, p->query_value.present ? scores : 0);
    at.bias = mfai_cpu_take(&at.size, has_bias ? scores : 0);
    at.drop_factors = mfai_cpu_take(&at.size, p->dropout_p > 0 ? s->block_keys : 0);
    at.rows = mfai_cpu_take(&at.size, MFAI_CPU_ROW_TABLE_FLOATS);
    at.runs =
        mfai_cpu_take(&at.size, mfai_rows_most_runs(&p->key) * (int64_t)(sizeof(mfai_rows_run_t) / sizeof(float)));
    at.copy = mfai_cpu_take(&at.size, in_place ? 0 : s->block_keys * widest);
    at.key_codes = mfai_cpu_take(&at.size, mfai_cpu_code_floats(&p->key, &p->key_quantization, s->block_keys));
    at.value_codes = mfai_cpu_take(&at.size, mfai_cpu_code_floats(&p->value, &p->value_quantization, s->block_keys));
    if (p->features & MFAI_INT8)
        *int8 = mfai_cpu_int8_plan(p, s->chunk_rows, s->block_keys, s->value_width, tile->sub_rows / 2, tile->lanes,
                                   &at.size);
    at.zeros = mfai_cpu_take(&at.size, widest);
    return at;
}

typedef struct {
    const mfai_cpu_kernels_t *kernel;
    mfai_cpu_forward_job_t job;
    mfai_cpu_forward_part_t alike; /* the only part, if no sequence has a length of its own */
    double cost;                   /* of all sequences, if they have */
    int slots;
    int64_t most_splits, part_floats, order_floats, partial_floats, workspace_floats;
    mfai_cpu_append_job_t append; /* comes first; its memory behind the rest */
    int64_t append_floats;
} forward_plan_t;

static mfai_cpu_forward_part_t part_of_sequence(const forward_plan_t *plan, int64_t batch) {
    const mfai_problem_t *p = plan->job.problem;
    const double cost = find_cost(p, batch);
    mfai_cpu_forward_part_t part = find_part(p, &plan->job.shape, &plan->kernel->tile, batch, 1, cost / plan->cost);
    part.cost = cost;
    return part;
}

static void count_part(forward_plan_t *plan, const mfai_cpu_forward_part_t *part) {
    mfai_cpu_forward_job_t *job = &plan->job;
    job->part_count += part->tasks > 0;
    job->tasks += part->tasks;
    job->combined_rows += part->combined_rows;
    job->shape.chunk_rows = mfai_max(job->shape.chunk_rows, part->chunk_rows);
    plan->partial_floats += part->partial_rows * (job->shape.value_width + 2);
    plan->most_splits = mfai_max(plan->most_splits, part->splits);
}

static void count_parts(forward_plan_t *plan) {
    const mfai_problem_t *p = plan->job.problem;
    plan->job.shape.chunk_rows = plan->kernel->tile.sub_rows;
    if (p->lengths == NULL) {
        plan->alike = find_part(p, &plan->job.shape, &plan->kernel->tile, 0, p->batch, 1);
        count_part(plan, &plan->alike);
        return;
    }
    for (int64_t b = 0; b < p->batch; ++b)
        plan->cost += find_cost(p, b);
    for (int64_t b = 0; b < p->batch; ++b) {
        const mfai_cpu_forward_part_t part = part_of_sequence(plan, b);
        count_part(plan, &part);
    }
    plan->part_floats =
        mfai_cpu_lines(plan->job.part_count * (int64_t)(sizeof(mfai_cpu_forward_part_t) / sizeof(float)));
}

static int by_cost(const void *one, const void *other) {
    const mfai_cpu_forward_part_t *a = one, *b = other;
    return a->cost != b->cost ? (a->cost < b->cost) - (a->cost > b->cost)
                              : (a->batch > b->batch) - (a->batch < b->batch);
}

/* The table of parts; `memory` has room for it. */
static void fill_parts(forward_plan_t *plan, mfai_cpu_forward_part_t *memory) {
    mfai_cpu_forward_job_t *job = &plan->job;
    job->parts = &plan->alike;
    if (job->problem->lengths == NULL)
        return;
    int64_t count = 0;
    for (int64_t b = 0; b < job->problem->batch; ++b) {
        const mfai_cpu_forward_part_t part = part_of_sequence(plan, b);
        if (part.tasks > 0)
            memory[count++] = part;
    }
    qsort(memory, (size_t)count, sizeof *memory, by_cost);
    for (int64_t i = 1; i < count; ++i) {
        memory[i].first_task = memory[i - 1].first_task + memory[i - 1].tasks;
        memory[i].first_combined_row = memory[i - 1].first_combined_row + memory[i - 1].combined_rows;
        memory[i].first_partial_row = memory[i - 1].first_partial_row + memory[i - 1].partial_rows;
    }
    job->parts = memory;
}

/* How many blocks count in the rows of a chunk, as forward_task numbers them. */
static int64_t blocks_of_chunk(const mfai_problem_t *p, const mfai_cpu_forward_part_t *part, int64_t bh,
                               int64_t chunk) {
    const mfa_span all = mfa_span_of(0, part->rows);
    const mfa_span rows = mfa_span_cut(all, mfa_span_of(chunk * part->chunk_rows, (chunk + 1) * part->chunk_rows));
    const mfa_span lines = mfa_span_tiles(mfa_span_tiles(rows, part->group), p->block_rows);
    const int64_t sets = p->heads / part->group;
    return mfai_blocks_count(p, part->batch + bh / sets, bh % sets * part->group, lines);
}

/* Adds to `order` those tasks, in order, in which more than `bound` blocks count, or all others. Returns how many
   blocks count in them. */
static double order_tasks(const mfai_cpu_forward_job_t *job, bool above, double bound, int64_t *order, int64_t *count) {
    double blocks = 0;
    for (int64_t i = 0; i < job->part_count; ++i) {
        const mfai_cpu_forward_part_t *part = &job->parts[i];
        for (int64_t number = 0; number < part->tasks; ++number) {
            const int64_t at = number / part->splits, chunk = part->chunks - 1 - at % part->chunks;
            const double here = (double)blocks_of_chunk(job->problem, part, at / part->chunks, chunk);
            if ((here > bound) != above)
                continue;
            order[(*count)++] = part->first_task + number;
            blocks += here;
        }
    }
    return blocks;
}

/* Rows that see far more than others, as global ones, come first, so that nobody waits for them in the end. */
static void order_by_blocks(mfai_cpu_forward_job_t *job, int64_t *order) {
    int64_t count = 0;
    const double bound = 2 * order_tasks(job, true, -1, order, &count) / (double)mfai_max(job->tasks, 1);
    count = 0;
    order_tasks(job, true, bound, order, &count);
    order_tasks(job, false, bound, order, &count);
    job->order = order;
}

static mfa_status_t make_plan(const mfai_cpu_device_t *device, const mfai_problem_t *p, forward_plan_t *plan) {
    MFAI_TRY(mfai_check_head_dims("CPU", p));
    *plan = (forward_plan_t){.most_splits = 1};
    plan->kernel = choose_kernel(device->isa, p);
    mfai_cpu_forward_job_t *job = &plan->job;
    *job = (mfai_cpu_forward_job_t){.problem = p, .shape = find_shape(p, &plan->kernel->tile)};
    count_parts(plan);
    job->has_bias = p->features & (MFAI_BIASES | MFAI_HIDING);
    job->score_pass = p->features & MFAI_BIASES || p->softcap > 0 || p->query_scale.present || p->key_scale.present ||
                      p->softmax_scale == 0 || !isfinite(p->softmax_scale * MFA_LOG2_E);
    job->negate_query = !job->score_pass && p->softmax_scale < 0;
    job->score_factor = job->score_pass ? 1 : fabsf(p->softmax_scale) * MFA_LOG2_E;
    job->max_to_log2 = job->score_pass ? MFA_LOG2_E : 1;
    job->max_to_natural = job->score_pass ? 1 : MFA_LN_2;
    job->dropout = mfai_cpu_dropout(p);
    job->scratch = lay_out(p, &job->shape, &plan->kernel->tile, job->has_bias, &job->int8);

    plan->slots = (int)mfai_clamp(job->tasks, 1, device->num_threads);
    plan->partial_floats = mfai_cpu_lines(plan->partial_floats);
    if (p->features & MFAI_APPEND)
        plan->append = mfai_cpu_append_plan(device, p, &plan->append_floats);
    if (p->features & MFAI_BLOCKS && job->tasks > 1)
        plan->order_floats = mfai_cpu_lines(job->tasks * (int64_t)(sizeof *job->order / sizeof(float)));
    plan->workspace_floats = plan->slots * job->scratch.size + plan->part_floats + plan->order_floats +
                             plan->partial_floats + plan->append_floats;
    return MFA_SUCCESS;
}

mfa_status_t mfai_cpu_forward_plan(const mfai_cpu_device_t *device, const mfai_problem_t *problem, mfa_plan_t *out) {
    forward_plan_t plan;
    MFAI_TRY(make_plan(device, problem, &plan));
    out->tile_queries = plan.kernel->tile.sub_rows;
    out->tile_keys = (int32_t)plan.job.shape.block_keys;
    out->key_splits = (int32_t)plan.most_splits;
    out->num_threads = plan.slots;
    out->workspace_bytes = (uint64_t)plan.workspace_floats * sizeof(float);
    snprintf(out->kernel, sizeof out->kernel, "forward_%s", plan.kernel->name);
    snprintf(out->isa, sizeof out->isa, "%s", device->isa->name);
    return MFA_SUCCESS;
}

static void run_tasks(forward_plan_t *plan) {
    mfai_cpu_forward_job_t *job = &plan->job;
    mfai_parallel_for(plan->slots, job->tasks, plan->kernel->forward, job);
    if (job->combined_rows > 0)
        mfai_parallel_for(plan->slots, mfai_ceil_div(job->combined_rows, MFAI_CPU_COMBINE_ROWS), plan->kernel->combine,
                          job);
}

/* Apart, as a problem is large and stacks may be small. */
__attribute__((noinline)) static void run_appending(forward_plan_t *plan, char *memory) {
    mfai_problem_t left;
    mfai_cpu_append(&plan->append, memory, &left);
    plan->job.problem = &left;
    run_tasks(plan);
}

mfa_status_t mfai_cpu_forward(mfai_cpu_device_t *device, const mfai_problem_t *problem) {
    forward_plan_t plan;
    MFAI_TRY(make_plan(device, problem, &plan));
    mfai_cpu_forward_job_t *job = &plan.job;
    const bool needs_memory = job->tasks > 0 || plan.append_floats > 0;
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
        job->memory = mfai_workspace_memory(workspace);
        float *behind = (float *)job->memory + plan.slots * job->scratch.size;
        job->partial = behind + plan.part_floats + plan.order_floats;
        fill_parts(&plan, (mfai_cpu_forward_part_t *)behind);
        if (plan.order_floats > 0)
            order_by_blocks(job, (int64_t *)(behind + plan.part_floats));
        if (plan.append_floats > 0)
            run_appending(&plan, (char *)(job->partial + plan.partial_floats));
        else
            run_tasks(&plan);
        mfai_workspace_give(&device->workspaces, workspace);
    }
    return MFA_SUCCESS;
}

/* Quantises a tensor in passes: means, ranges, scales of ranges, and only when nothing can be refused any more, what is
   written. Tasks follow from the sizes alone, and so do the order of sums and all bits. */
#include "cpu/quantise.h"

#include <inttypes.h>
#include <string.h>

#include "core/quantization.h"
#include "cpu/code_range.h"
#include "cpu/sizes.h"
#include "cpu/threads.h"

enum {
    TASK_ELEMENTS = 1 << 15,
    ALONE_ELEMENTS = 1 << 15, /* so few are done before another thread is awake */
    LINE_TASK_CELLS = 1 << 12,
};

static mfai_cpu_quantise_job_t make_job(const mfai_cpu_device_t *device, const mfai_quantize_t *call) {
    const mfai_quantization_t *quantization = &call->quantization;
    const int64_t *shape = call->input.shape, rows = shape[2], columns = shape[3];
    mfai_cpu_quantise_job_t job = {.call = call, .range = mfai_cpu_code_range(&call->codes, quantization)};
    job.width = mfai_round_up(mfai_max(columns, 1), device->isa->float32->tile.lanes);
    job.groups = quantization->scales.shape[3];
    job.task_rows = mfai_clamp(TASK_ELEMENTS / job.width, 1, mfai_max(rows, 1));
    if (quantization->rows > 0 && quantization->rows <= job.task_rows)
        job.task_rows = job.task_rows / quantization->rows * quantization->rows;
    job.owns_scales = quantization->rows > 0 && job.task_rows % quantization->rows == 0 &&
                      quantization->scales.shape[0] == shape[0] && quantization->scales.shape[1] == shape[1];
    job.blocks = mfai_ceil_div(rows, job.task_rows);
    job.tasks = columns == 0 ? 0 : shape[0] * shape[1] * job.blocks;
    job.lines = quantization->scales.shape[0] * quantization->scales.shape[1] * quantization->scales.shape[2];
    job.task_lines = mfai_max(LINE_TASK_CELLS / mfai_max(job.groups, 1), 1);
    job.threads = job.tasks * job.task_rows * job.width <= ALONE_ELEMENTS
                      ? 1
                      : (int)mfai_clamp(job.tasks, 1, device->num_threads);

    mfai_cpu_quantise_scratch_t *at = &job.scratch;
    at->row = mfai_cpu_take(&at->size, job.width);
    at->highs = mfai_cpu_take(&at->size, job.width);
    at->lows = mfai_cpu_take(&at->size, job.width);
    at->most = mfai_cpu_take(&at->size, job.groups);
    at->bytes = mfai_cpu_take(&at->size, columns / 4 + 1);
    at->copy = mfai_cpu_take(&at->size, mfai_rows_are_contiguous(&call->input) ? 0 : columns);
    return job;
}

/* ------------------------------------------------------- means and scales */

static void load_mean(mfai_cpu_quantise_job_t *job) {
    const mfai_view_t *mean = &job->call->quantization.mean;
    for (int64_t head = 0; head < mean->shape[0] * mean->shape[1]; ++head)
        for (int64_t d = 0; d < mean->shape[3]; ++d)
            memcpy(job->means + head * job->width + d,
                   mfai_view_row(mean, head / mean->shape[1], head % mean->shape[1], 0) +
                       mfai_view_offset(mean, d * mean->stride[3]),
                   sizeof(float));
}

static void store_mean(const mfai_cpu_quantise_job_t *job) {
    const mfai_view_t *mean = &job->call->quantization.mean;
    for (int64_t head = 0; head < mean->shape[0] * mean->shape[1]; ++head)
        for (int64_t d = 0; d < mean->shape[3]; ++d)
            memcpy(mfai_view_row(mean, head / mean->shape[1], head % mean->shape[1], 0) +
                       mfai_view_offset(mean, d * mean->stride[3]),
                   job->means + head * job->width + d, sizeof(float));
}

/* Adds up the sums of the tasks that share a mean, in their order, and divides them. */
static void find_means(const mfai_cpu_kernels_t *kernel, mfai_cpu_quantise_job_t *job) {
    const mfai_view_t *mean = &job->call->quantization.mean;
    if (!mean->present)
        return;
    mfai_parallel_for(job->threads, job->tasks, kernel->quantise_sum, job);
    const int64_t heads = job->call->input.shape[1];
    for (int64_t task = 0; task < job->tasks; ++task) {
        const int64_t b = task / job->blocks / heads, h = task / job->blocks % heads;
        const int64_t first = ((mean->shape[0] == 1 ? 0 : b) * heads + (mean->shape[1] == 1 ? 0 : h)) * job->blocks;
        double *const total = job->sums + first * 2 * job->width, *const sums = job->sums + task * 2 * job->width;
        for (int64_t i = 0; task != first && i < 2 * job->width; ++i)
            total[i] += sums[i];
    }
    for (int64_t b = 0; job->tasks > 0 && b < mean->shape[0]; ++b)
        for (int64_t h = 0; h < mean->shape[1]; ++h) {
            const double *sums = job->sums + (b * heads + h) * job->blocks * 2 * job->width;
            float *means = job->means + (b * mean->shape[1] + h) * job->width;
            for (int64_t d = 0; d < mean->shape[3]; ++d)
                means[d] = sums[job->width + d] > 0 ? (float)(sums[d] / sums[job->width + d]) : 0;
        }
}

/* Elements of line `line`, counted over all heads, of scales or zero points. */
static char *line_of(const mfai_view_t *view, int64_t line) {
    const int64_t head = line / view->shape[2];
    return mfai_view_row(view, head / view->shape[1], head % view->shape[1], line % view->shape[2]);
}

/* One of them. */
static char *cell_of(const mfai_view_t *view, int64_t line, int64_t group) {
    return line_of(view, line) + mfai_view_offset(view, group * view->stride[3]);
}

/* Ranges of scales become scales. */
static void find_scales(void *argument, int64_t task, int slot) {
    (void)slot;
    mfai_cpu_quantise_job_t *job = argument;
    const int64_t end = mfai_clamp((task + 1) * job->task_lines, 0, job->lines) * job->groups;
    bool wrong = false;
    for (int64_t i = task * job->task_lines * job->groups; i < end; ++i) {
        const float high = job->scales[i], low = job->zero_points[i];
        job->scales[i] = mfai_cpu_scale(&job->range, low, high);
        job->zero_points[i] = mfai_cpu_zero_point(&job->range, low, job->scales[i]);
        wrong |= job->scales[i] > mfai_cpu_most_scale(&job->range);
    }
    if (wrong)
        __atomic_store_n(&job->has_beyond, true, __ATOMIC_RELAXED);
}

static void load_scales(void *argument, int64_t task, int slot) {
    (void)slot;
    const mfai_cpu_quantise_job_t *job = argument;
    const mfai_view_t *scales = &job->call->quantization.scales, *zeros = &job->call->quantization.zero_points;
    for (int64_t line = task * job->task_lines; line < (task + 1) * job->task_lines && line < job->lines; ++line)
        for (int64_t g = 0; g < job->groups; ++g) {
            const int64_t cell = line * job->groups + g;
            job->scales[cell] = mfai_cpu_factor_load(cell_of(scales, line, g), scales->format);
            job->zero_points[cell] = zeros->present ? mfai_cpu_factor_load(cell_of(zeros, line, g), zeros->format) : 0;
        }
}

static void store_scales(void *argument, int64_t task, int slot) {
    (void)slot;
    const mfai_cpu_quantise_job_t *job = argument;
    const mfai_view_t *scales = &job->call->quantization.scales, *zeros = &job->call->quantization.zero_points;
    for (int64_t line = task * job->task_lines; line < (task + 1) * job->task_lines && line < job->lines; ++line)
        for (int64_t g = 0; g < job->groups; ++g) {
            const int64_t cell = line * job->groups + g;
            mfai_cpu_factor_store(cell_of(scales, line, g), scales->format, job->scales[cell]);
            if (zeros->present)
                mfai_cpu_factor_store(cell_of(zeros, line, g), zeros->format, job->zero_points[cell]);
        }
}

/* ---------------------------------------------------------------- refusals */

static mfa_status_t refuse_others(const mfai_view_t *input) {
    for (int64_t b = 0; b < input->shape[0]; ++b)
        for (int64_t h = 0; h < input->shape[1]; ++h)
            for (int64_t n = 0; n < input->shape[2]; ++n)
                for (int64_t d = 0; d < input->shape[3]; ++d) {
                    const char *element = mfai_view_row(input, b, h, n) + mfai_view_offset(input, d * input->stride[3]);
                    uint16_t half;
                    memcpy(&half, element, sizeof half);
                    const float found = input->format == MFAI_FORMAT_BF16
                                            ? mfai_bf16_to_f32(half)
                                            : mfai_cpu_factor_load(element, input->format);
                    MFAI_REQUIRE(isfinite(found),
                                 "input[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                                 "] is %g, expected a finite number",
                                 b, h, n, d, found);
                }
    return MFA_SUCCESS;
}

static mfa_status_t refuse_beyond(const mfai_cpu_quantise_job_t *job) {
    const int64_t *shape = job->call->quantization.scales.shape;
    int64_t cell = 0;
    while (job->scales[cell] <= mfai_cpu_most_scale(&job->range))
        ++cell;
    const int64_t line = cell / job->groups, head = line / shape[2];
    return mfai_fail(MFA_ERROR_INVALID_ARGS,
                     "quantization.scales[%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                     "] would be %g, but the largest number of %s is %g",
                     head / shape[1], head % shape[1], line % shape[2], cell % job->groups, job->scales[cell],
                     job->range.is_half ? "FP16" : "FP32", mfai_cpu_most_scale(&job->range));
}

/* ------------------------------------------------------------------ a call */

static mfa_status_t run(const mfai_cpu_kernels_t *kernel, mfai_cpu_quantise_job_t *job) {
    const mfai_quantize_t *call = job->call;
    const int64_t line_tasks = mfai_ceil_div(job->lines, job->task_lines);
    if (call->is_static) {
        load_mean(job);
        mfai_parallel_for(job->threads, line_tasks, load_scales, job);
    } else {
        find_means(kernel, job);
        memset(job->scales, 0, (size_t)(job->lines * job->groups) * sizeof(float));
        memset(job->zero_points, 0, (size_t)(job->lines * job->groups) * sizeof(float));
    }
    if (!call->is_static || !call->saturates)
        mfai_parallel_for(job->threads, job->tasks, kernel->quantise_ranges, job);
    if (job->has_others && !call->saturates)
        return refuse_others(&call->input);
    if (!call->is_static)
        mfai_parallel_for(job->threads, line_tasks, find_scales, job);
    if (job->has_beyond)
        return refuse_beyond(job);
    if (call->checks_only)
        return MFA_SUCCESS;
    mfai_parallel_for(job->threads, job->tasks, kernel->quantise_encode, job);
    if (!call->is_static) {
        mfai_parallel_for(job->threads, line_tasks, store_scales, job);
        store_mean(job);
    }
    return MFA_SUCCESS;
}

mfa_status_t mfai_cpu_quantise(mfai_cpu_device_t *device, const mfai_quantize_t *call) {
    mfai_cpu_quantise_job_t job = make_job(device, call);
    const mfai_view_t *mean = &call->quantization.mean;
    int64_t size = 0;
    mfai_cpu_take(&size, job.threads * job.scratch.size);
    const int64_t scales = mfai_cpu_take(&size, job.lines * job.groups);
    const int64_t zero_points = mfai_cpu_take(&size, job.lines * job.groups);
    const int64_t means = mfai_cpu_take(&size, mean->present ? mean->shape[0] * mean->shape[1] * job.width : 0);
    const int64_t sums = mfai_cpu_take(&size, mean->present && !call->is_static ? job.tasks * 4 * job.width : 0);
    mfai_workspace_t *workspace = mfai_workspace_take(&device->workspaces, (size_t)size * sizeof(float));
    if (workspace == NULL)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a workspace of %" PRId64 " floats", size);
    float *memory = (float *)(void *)mfai_workspace_memory(workspace);
    job.memory = (char *)memory;
    job.scales = memory + scales;
    job.zero_points = memory + zero_points;
    job.means = mean->present ? memory + means : NULL;
    job.sums = (double *)(void *)(memory + sums);
    if (mean->present) /* columns that fill up a vector count, too */
        memset(job.means, 0, (size_t)(mean->shape[0] * mean->shape[1] * job.width) * sizeof(float));
    const mfa_status_t status = run(device->isa->float32, &job);
    mfai_workspace_give(&device->workspaces, workspace);
    return status;
}

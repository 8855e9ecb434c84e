/* The CPU backend: opening it, and memory, which is the process's own. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attn/blocks.h"
#include "core/backend.h"
#include "core/integers.h"
#include "core/quantization.h"
#include "cpu/backward.h"
#include "cpu/clock.h"
#include "cpu/cpu_count.h"
#include "cpu/device.h"
#include "cpu/features.h"
#include "cpu/forward.h"
#include "cpu/quantise.h"
#include "cpu/threads.h"

static bool is_available(const char **reason) {
    (void)reason;
    return true;
}

static int at_most(long count) { return count < MFAI_MOST_THREADS ? (int)count : MFAI_MOST_THREADS; }

static mfa_status_t thread_count(int32_t wanted, int *count) {
    *count = at_most(wanted);
    if (wanted > 0)
        return MFA_SUCCESS;
    const char *text = getenv("MFA_NUM_THREADS");
    if (text == NULL || *text == '\0') {
        *count = at_most(mfai_cpu_count());
        return MFA_SUCCESS;
    }
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    MFAI_REQUIRE(*end == '\0' && errno == 0 && value >= 1 && value <= INT32_MAX,
                 "environment variable MFA_NUM_THREADS is \"%s\", expected a whole number from 1", text);
    *count = at_most(value);
    return MFA_SUCCESS;
}

static mfa_status_t open_device(const mfa_context_options_t *options, void **handle) {
    mfai_cpu_device_t device = {0};
    MFAI_TRY(mfai_cpu_isa_choose(options->cpu_isa, &device.isa));
    MFAI_TRY(thread_count(options->num_threads, &device.num_threads));
    mfai_cpu_device_t *opened = malloc(sizeof *opened);
    if (opened == NULL)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a CPU device");
    *opened = device;
    *handle = opened;
    return MFA_SUCCESS;
}

static void close_device(void *handle) {
    mfai_cpu_device_t *device = handle;
    mfai_workspace_list_trim(&device->workspaces);
    mfai_workspace_list_trim(&device->blocks);
    free(device);
}

static void describe(void *handle, mfa_context_info_t *info) {
    const mfai_cpu_device_t *device = handle;
    info->num_threads = device->num_threads;
    info->cpu_isa = device->isa->id;
    snprintf(info->backend_name, sizeof info->backend_name, "cpu");
    snprintf(info->isa_name, sizeof info->isa_name, "%s", device->isa->name);
    mfai_cpu_name(info->device_name, sizeof info->device_name);
}

static void trim(void *handle) {
    mfai_cpu_device_t *device = handle;
    mfai_workspace_list_trim(&device->workspaces);
    mfai_workspace_list_trim(&device->blocks);
}

/* handle is set if the memory is ours to free. */
static mfa_status_t memory_open(void *device, void *data, size_t size, mfai_memory_t *memory) {
    (void)device;
    *memory = (mfai_memory_t){.contents = data, .base = data, .zero_copy = true};
    if (data != NULL)
        return MFA_SUCCESS;
    if (posix_memalign(&memory->contents, 64, size > 0 ? size : 1) != 0)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a buffer of %zu bytes", size);
    memset(memory->contents, 0, size);
    memory->base = memory->contents;
    memory->handle = memory->contents;
    return MFA_SUCCESS;
}

static void memory_close(void *device, mfai_memory_t *memory) {
    (void)device;
    free(memory->handle);
}

/* Whether blocks are given as lists, of which bits are to be made. */
static bool is_listed(const mfai_problem_t *problem) {
    return problem->features & MFAI_BLOCKS && !problem->blocks.present;
}

static mfa_status_t plan(void *device, const mfai_problem_t *problem, mfa_plan_t *out) {
    MFAI_TRY(problem->pass == MFAI_BACKWARD ? mfai_cpu_backward_plan(device, problem, out)
                                            : mfai_cpu_forward_plan(device, problem, out));
    if (is_listed(problem))
        out->workspace_bytes += (uint64_t)mfai_max(mfai_blocks_bytes(problem), 0);
    return MFA_SUCCESS;
}

enum { LINES_AT_ONCE = 64 };

static void fill_blocks(void *problem, int64_t task, int slot) {
    (void)slot;
    const mfai_view_t *blocks = &((const mfai_problem_t *)problem)->blocks;
    const int64_t lines = blocks->shape[0] * blocks->shape[1] * blocks->shape[2];
    mfai_blocks_fill(
        problem, mfa_span_cut(mfa_span_of(task * LINES_AT_ONCE, (task + 1) * LINES_AT_ONCE), mfa_span_of(0, lines)));
}

static mfa_status_t compute(mfai_cpu_device_t *device, const mfai_problem_t *problem) {
    return problem->pass == MFAI_BACKWARD ? mfai_cpu_backward(device, problem) : mfai_cpu_forward(device, problem);
}

/* With the bits that the lists of blocks come to. */
static mfa_status_t compute_blocks(mfai_cpu_device_t *device, const mfai_problem_t *listed) {
    mfai_problem_t problem = *listed;
    const int64_t bytes = mfai_blocks_bytes(&problem);
    mfai_workspace_t *workspace = bytes < 0 ? NULL : mfai_workspace_take(&device->blocks, (size_t)bytes);
    if (workspace == NULL)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for the bits of blocks, %" PRId64 " bytes", bytes);
    const int64_t lines = mfai_blocks_place(&problem, mfai_workspace_memory(workspace));
    mfai_parallel_for(device->num_threads, mfai_ceil_div(lines, LINES_AT_ONCE), fill_blocks, &problem);
    const mfa_status_t status = compute(device, &problem);
    mfai_workspace_give(&device->blocks, workspace);
    return status;
}

typedef struct {
    const mfai_problem_t *problem;
    int64_t wrong; /* the first piece with a scale or zero point that cannot be one; atomic */
} check_job_t;

static void check_piece(void *argument, int64_t piece, int slot) {
    (void)slot;
    check_job_t *job = argument;
    int64_t wrong = __atomic_load_n(&job->wrong, __ATOMIC_RELAXED);
    if (piece >= wrong || mfai_quantization_check_piece(job->problem, piece) == MFA_SUCCESS)
        return;
    while (piece < wrong &&
           !__atomic_compare_exchange_n(&job->wrong, &wrong, piece, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

enum { NUMBERS_AT_ONCE = 1 << 15 }; /* scales and zero points that are checked before another thread is awake */

static mfa_status_t check_scales(const mfai_cpu_device_t *device, const mfai_problem_t *problem) {
    int64_t numbers;
    const int64_t pieces = mfai_quantization_pieces(problem, &numbers);
    check_job_t job = {problem, pieces};
    mfai_parallel_for(numbers < NUMBERS_AT_ONCE ? 1 : device->num_threads, pieces, check_piece, &job);
    /* Again, for the message, which belongs to a thread. */
    return job.wrong < pieces ? mfai_quantization_check_piece(problem, job.wrong) : MFA_SUCCESS;
}

static mfa_status_t run(void *device, const mfai_problem_t *problem, double *seconds) {
    const double start = mfai_now();
    MFAI_TRY(check_scales(device, problem));
    MFAI_TRY(is_listed(problem) ? compute_blocks(device, problem) : compute(device, problem));
    *seconds = mfai_now() - start;
    return MFA_SUCCESS;
}

static mfa_status_t quantise(void *device, const mfai_quantize_t *call) { return mfai_cpu_quantise(device, call); }

const mfai_backend_t mfai_cpu_backend = {
    .name = "cpu",
    .id = MFA_BACKEND_CPU,
    .is_available = is_available,
    .open = open_device,
    .close = close_device,
    .describe = describe,
    .trim = trim,
    .memory_open = memory_open,
    .memory_close = memory_close,
    .plan = plan,
    .run = run,
    .quantise = quantise,
};

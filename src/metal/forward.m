/* What a forward call consists of: tiles of rows, or few rows with the keys split among threadgroups. */
#include "metal/forward.h"

#include <stdio.h>

#import "metal/call.h"
#import "metal/operands.h"
#include "metal/parameters.h"
#include "metal/process.h"
#include "metal/tiles.h"

typedef struct {
    mfai_metal_call_t call;
    mfai_metal_tile_t tile;
} forward_t;

static mfai_metal_tile_t find_tile(mfai_metal_pass_t pass, const mfai_metal_device_t *device, const mfai_problem_t *p) {
    return mfai_metal_tile(pass, device->family, (int)mfai_precision_size(p->query.precision), p->head_dim,
                           p->value_dim);
}

static void specialise(mfai_metal_dispatch_t *dispatch, const mfai_problem_t *p, const mfai_metal_tile_t *tile) {
    mfai_metal_kernel_define_type(&dispatch->kernel, "MFA_T", p->query.precision);
    mfai_metal_kernel_define_type(&dispatch->kernel, "MFA_O", p->out.precision);
    mfai_metal_kernel_define_tile(&dispatch->kernel, tile);
    mfai_metal_kernel_set_features(&dispatch->kernel, p);
    dispatch->rows = tile->rows;
    dispatch->keys = tile->keys;
}

static uint64_t tile_work(const mfai_metal_tile_t *tile, int64_t keys) {
    return (uint64_t)tile->rows * (uint64_t)keys * (uint64_t)(tile->depth + tile->value_block);
}

/* ------------------------------------------------------------------ tiles of rows */

static void make_tiled(const mfai_problem_t *p, forward_t *f) {
    mfai_metal_dispatch_t *dispatch = mfai_metal_call_add_dispatch(&f->call, "forward");
    specialise(dispatch, p, &f->tile);
    dispatch->query_tiles = mfai_metal_ceil_div(p->query_count, f->tile.rows);
    dispatch->key_tiles = mfai_metal_ceil_div(p->key_count, f->tile.keys);
    dispatch->value_blocks = f->tile.value_blocks;
    dispatch->threads = (unsigned)f->tile.simdgroups * MFAI_METAL_SIMD_WIDTH;
    dispatch->threadgroups = (uint64_t)(p->batch * p->heads * dispatch->query_tiles * dispatch->value_blocks);
    dispatch->work = tile_work(&f->tile, p->key_count);
}

/* ------------------------------------------------------------------ few rows */

static bool is_decode(const mfai_problem_t *p) { return p->query_count <= MFAI_METAL_DECODE_QUERIES; }

static void add_combine(const mfai_problem_t *p, mfai_metal_call_t *call) {
    const mfai_problem_t seen = {.logsumexp = p->logsumexp, .sinks = p->sinks}; /* of the problem, by this kernel */
    mfai_metal_dispatch_t *dispatch = mfai_metal_call_add_dispatch(call, "combine");
    mfai_metal_kernel_define_type(&dispatch->kernel, "MFA_T", p->query.precision);
    mfai_metal_kernel_define_type(&dispatch->kernel, "MFA_O", p->out.precision);
    mfai_metal_kernel_define(&dispatch->kernel, "MFA_SIMDGROUPS", MFAI_METAL_COMBINE_SIMDGROUPS);
    mfai_metal_kernel_set_features(&dispatch->kernel, &seen);
    dispatch->threads = MFAI_METAL_COMBINE_SIMDGROUPS * MFAI_METAL_SIMD_WIDTH;
    dispatch->threadgroups =
        (uint64_t)mfai_metal_ceil_div(p->batch * p->heads * p->query_count, MFAI_METAL_COMBINE_SIMDGROUPS);
    dispatch->work = (uint64_t)(call->params.splits * p->value_dim);
    dispatch->waits = true;
}

static void make_decode(const mfai_problem_t *p, forward_t *f) {
    mfa_metal_params *params = &f->call.params;
    mfai_metal_dispatch_t *dispatch = mfai_metal_call_add_dispatch(&f->call, "decode");
    specialise(dispatch, p, &f->tile);
    dispatch->query_tiles = mfai_metal_ceil_div(p->group * p->query_count, f->tile.rows);
    dispatch->value_blocks = f->tile.value_blocks;
    const int64_t row_groups = p->batch * p->kv_heads * dispatch->query_tiles * dispatch->value_blocks;
    const mfai_metal_split_t split = mfai_metal_split(&f->tile, row_groups > 0 ? row_groups : 1, p->key_count);
    params->splits = split.count;
    params->split_keys = split.keys;
    dispatch->threads = (unsigned)f->tile.simdgroups * MFAI_METAL_SIMD_WIDTH;
    dispatch->threadgroups = (uint64_t)(row_groups * params->splits);
    dispatch->work = tile_work(&f->tile, params->split_keys);
    const int64_t rows = p->batch * p->heads * p->query_count;
    mfai_metal_call_add_scratch(&f->call, MFA_BUFFER_PARTIALS,
                                (uint64_t)(rows * params->splits * (p->value_dim + MFA_PARTIAL_EXTRA)) * sizeof(float));
    add_combine(p, &f->call);
}

/* ------------------------------------------------------------------ entries */

static mfa_status_t make(const mfai_metal_device_t *device, const mfai_problem_t *p, forward_t *f) {
    *f = (forward_t){0};
    MFA_TRY(mfai_metal_check_process());
    MFA_TRY(mfai_metal_parameters(p, &f->call.params));
    mfai_metal_add_forward_operands(&f->call, p, MFAI_METAL_WRITE);
    f->tile = find_tile(is_decode(p) ? MFAI_METAL_DECODE : MFAI_METAL_FORWARD, device, p);
    if (is_decode(p))
        make_decode(p, f);
    else
        make_tiled(p, f);
    return MFA_SUCCESS;
}

mfa_status_t mfai_metal_forward_plan(void *handle, const mfai_problem_t *problem, mfa_plan_t *plan) {
    const mfai_metal_device_t *device = handle;
    forward_t f;
    MFA_TRY(make(device, problem, &f));
    mfai_metal_call_describe(device, &f.call, plan);
    snprintf(plan->kernel, sizeof plan->kernel, "%s_%s_d%dx%d", is_decode(problem) ? "decode+combine" : "forward",
             mfai_precision_name(problem->query.precision), f.tile.depth, f.tile.value_block);
    return MFA_SUCCESS;
}

mfa_status_t mfai_metal_forward(void *handle, const mfai_problem_t *problem, double *seconds) {
    forward_t f;
    MFA_TRY(make(handle, problem, &f));
    return mfai_metal_call_run(handle, &f.call, seconds);
}

mfa_status_t mfai_metal_forward_encode(void *handle, const mfai_problem_t *problem, void *target) {
    forward_t f;
    MFA_TRY(make(handle, problem, &f));
    return mfai_metal_call_encode(handle, &f.call, target);
}

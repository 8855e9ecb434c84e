/* What a forward call consists of: tiles of rows, or few rows with the keys split among threadgroups. */
#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/forward.h"

#include <stdio.h>
#include <string.h>

#include "core/integers.h"
#import "metal/append.h"
#import "metal/blocks.h"
#import "metal/operands.h"
#include "metal/parameters.h"
#include "metal/process.h"
#import "metal/sequences.h"
#include "metal/tiles.h"

static mfai_metal_tile_t find_tile(mfai_metal_pass_t pass, const mfai_metal_device_t *device, const mfai_problem_t *p) {
    return mfai_metal_tile(pass, device->family, (int)mfai_view_element(&p->query), p->head_dim, p->value_dim);
}

static void specialise(mfai_metal_dispatch_t *dispatch, const mfai_problem_t *p, const mfai_metal_tile_t *tile) {
    mfai_metal_kernel_define_operands(&dispatch->kernel, p);
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_O, p->out.format);
    mfai_metal_kernel_define_tile(&dispatch->kernel, tile);
    mfai_metal_kernel_set_features(&dispatch->kernel, p, ~0u);
    dispatch->rows = tile->rows;
    dispatch->keys = tile->keys;
}

static uint64_t tile_work(const mfai_problem_t *p, const mfai_metal_tile_t *tile, int64_t keys) {
    const int64_t depth = tile->depth + (p->query_value.present ? p->value_dim : 0);
    return (uint64_t)tile->rows * (uint64_t)keys * (uint64_t)(depth + tile->value_block);
}

/* ------------------------------------------------------------------ tiles of rows */

static mfa_status_t make_tiled(const mfai_problem_t *p, const mfai_metal_tile_t *tile, mfai_metal_call_t *call) {
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(mfai_metal_add_fills(call, p));
    MFAI_TRY(mfai_metal_add_blocks(p, call));
    MFAI_TRY(mfai_metal_call_add_dispatch(call, "forward", &dispatch));
    specialise(dispatch, p, tile);
    const mfai_metal_grid_t grid = mfai_metal_query_grid(call, p, tile->rows);
    dispatch->query_tiles = grid.tiles;
    dispatch->key_tiles = mfai_ceil_div(call->params.key_count, tile->keys);
    dispatch->value_blocks = tile->value_blocks;
    dispatch->threads = (unsigned)tile->simdgroups * MFAI_METAL_SIMD_WIDTH;
    dispatch->threadgroups = (uint64_t)(grid.batches * p->heads * grid.tiles * dispatch->value_blocks);
    dispatch->work = tile_work(p, tile, call->params.key_count);
    dispatch->waits = call->dispatch_count > 1;
    return MFA_SUCCESS;
}

/* ------------------------------------------------------------------ few rows */

static bool is_decode(const mfai_problem_t *p) { return p->query_count <= MFAI_METAL_DECODE_QUERIES; }

static mfa_status_t add_combine(const mfai_problem_t *p, mfai_metal_call_t *call) {
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(mfai_metal_call_add_dispatch(call, "combine", &dispatch));
    mfai_metal_kernel_define_operands(&dispatch->kernel, p);
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_O, p->out.format);
    mfai_metal_kernel_define(&dispatch->kernel, MFAI_METAL_SIMDGROUPS, MFAI_METAL_COMBINE_SIMDGROUPS);
    mfai_metal_kernel_set_features(&dispatch->kernel, p, MFAI_LOGSUMEXP | MFAI_SINKS | MFAI_SEQUENCES | MFAI_SCALES);
    dispatch->threads = MFAI_METAL_COMBINE_SIMDGROUPS * MFAI_METAL_SIMD_WIDTH;
    const int64_t rows = call->params.stored_batches * p->heads * call->params.stored_rows;
    dispatch->threadgroups = (uint64_t)mfai_ceil_div(rows, MFAI_METAL_COMBINE_SIMDGROUPS);
    dispatch->work = (uint64_t)(call->params.splits * p->value_dim);
    dispatch->waits = true;
    return MFA_SUCCESS;
}

static mfa_status_t make_decode(const mfai_problem_t *p, const mfai_metal_tile_t *tile, mfai_metal_call_t *call) {
    mfa_metal_params *params = &call->params;
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(mfai_metal_add_blocks(p, call));
    MFAI_TRY(mfai_metal_call_add_dispatch(call, "decode", &dispatch));
    specialise(dispatch, p, tile);
    dispatch->query_tiles = mfai_ceil_div(p->group * params->query_count, tile->rows);
    dispatch->value_blocks = tile->value_blocks;
    const int64_t row_groups = p->batch * p->kv_heads * dispatch->query_tiles * dispatch->value_blocks;
    const mfai_metal_split_t split = mfai_metal_split(tile, row_groups > 0 ? row_groups : 1, params->key_count);
    params->splits = split.count;
    params->split_keys = split.keys;
    dispatch->threads = (unsigned)tile->simdgroups * MFAI_METAL_SIMD_WIDTH;
    dispatch->threadgroups = (uint64_t)(row_groups * params->splits);
    dispatch->work = tile_work(p, tile, params->split_keys);
    dispatch->waits = call->dispatch_count > 1;
    const int64_t rows = params->stored_batches * p->heads * params->stored_rows;
    const uint64_t floats = (uint64_t)(rows * params->splits * (p->value_dim + MFA_PARTIAL_EXTRA));
    MFAI_TRY(mfai_metal_call_add_scratch(call, MFA_BUFFER_PARTIALS, floats * sizeof(float)));
    return add_combine(p, call);
}

/* ------------------------------------------------------------------ both */

/* "append+rotate+forward_FP16_d64x64": every kernel that runs, and what the tile makes of head dimensions. */
static void name_kernels(mfai_metal_call_t *call, int32_t format, const mfai_metal_tile_t *tile) {
    char names[sizeof call->kernels] = "";
    size_t used = 0;
    for (int i = 0; i < call->dispatch_count && used < sizeof names; ++i) {
        const char *name = call->dispatches[i].kernel.name;
        if (i == 0 || strcmp(name, call->dispatches[i - 1].kernel.name) != 0) /* results that are filled: once */
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i > 0 ? "+" : "", name);
    }
    snprintf(call->kernels, sizeof call->kernels, "%s_%s_d%dx%d", names, mfai_formats[format].name, tile->depth,
             tile->value_block);
}

mfa_status_t mfai_metal_forward_make(const mfai_metal_device_t *device, const mfai_problem_t *p,
                                     mfai_metal_call_t *call) {
    *call = (mfai_metal_call_t){0};
    MFAI_TRY(mfai_metal_check_process());
    MFAI_TRY(mfai_metal_parameters(p, &call->params));
    mfai_metal_add_operands(call, p);
    MFAI_TRY(mfai_metal_add_append(call, p));
    MFAI_TRY(mfai_metal_add_quantise(call, p));
    const mfai_metal_tile_t tile = find_tile(is_decode(p) ? MFAI_METAL_DECODE : MFAI_METAL_FORWARD, device, p);
    MFAI_TRY(is_decode(p) ? make_decode(p, &tile, call) : make_tiled(p, &tile, call));
    name_kernels(call, p->query.format, &tile);
    return MFA_SUCCESS;
}
#endif

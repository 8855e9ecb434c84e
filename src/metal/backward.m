/* What a backward call consists of: delta first, then a kernel for each gradient that is wanted, or for dkey and dvalue
   together. */
#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/backward.h"

#include <stdio.h>
#include <string.h>

#include "core/integers.h"
#import "metal/blocks.h"
#import "metal/operands.h"
#include "metal/parameters.h"
#include "metal/process.h"
#import "metal/sequences.h"
#include "metal/tiles.h"

typedef struct {
    const mfai_metal_device_t *device;
    const mfai_problem_t *problem;
    mfai_metal_call_t *call;
} backward_t;

static mfai_metal_tile_t find_tile(const backward_t *b, mfai_metal_pass_t pass) {
    const mfai_problem_t *p = b->problem;
    return mfai_metal_tile(pass, b->device->family, (int)mfai_view_element(&p->query), p->head_dim, p->value_dim);
}

/* A kernel that computes scores anew, on tiles of the table. */
static mfa_status_t add_tiled(const backward_t *b, const char *name, const mfai_metal_tile_t *tile,
                              mfai_metal_dispatch_t **added) {
    const mfai_problem_t *p = b->problem;
    MFAI_TRY(mfai_metal_call_add_dispatch(b->call, name, added));
    mfai_metal_dispatch_t *dispatch = *added;
    mfai_metal_kernel_define_operands(&dispatch->kernel, p);
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_DO, p->dout.format);
    mfai_metal_kernel_define_tile(&dispatch->kernel, tile);
    mfai_metal_kernel_set_features(&dispatch->kernel, p, ~(unsigned)MFAI_SINKS);
    dispatch->kernel.constants[MFA_CONSTANT_DKEY] = p->dkey.present;
    dispatch->kernel.constants[MFA_CONSTANT_DVALUE] = p->dvalue.present;
    dispatch->rows = tile->rows;
    dispatch->keys = tile->keys;
    dispatch->query_tiles = mfai_ceil_div(p->query_count, tile->rows); /* of the longest sequence */
    dispatch->key_tiles = mfai_ceil_div(p->key_count, tile->keys);
    dispatch->value_blocks = tile->value_blocks;
    dispatch->threads = (unsigned)tile->simdgroups * MFAI_METAL_SIMD_WIDTH;
    return MFA_SUCCESS;
}

/* A kernel without tiles of scores. */
static mfa_status_t add_plain(const backward_t *b, const char *name, int simdgroups, unsigned features,
                              mfai_metal_dispatch_t **added) {
    MFAI_TRY(mfai_metal_call_add_dispatch(b->call, name, added));
    mfai_metal_kernel_set_features(&(*added)->kernel, b->problem, features);
    (*added)->threads = (unsigned)simdgroups * MFAI_METAL_SIMD_WIDTH;
    return MFA_SUCCESS;
}

static mfa_status_t add_prepare(const backward_t *b) {
    const mfai_problem_t *p = b->problem;
    const int64_t heads = b->call->params.stored_batches * p->heads, rows = b->call->params.stored_rows;
    mfai_metal_dispatch_t *dispatch;
    const bool has_out = p->out.present, writes_delta = has_out && p->delta.present;
    MFAI_TRY(add_plain(b, "backward_prepare", MFA_PREPARE_SIMDGROUPS, writes_delta ? MFAI_SEQUENCES : 0, &dispatch));
    dispatch->kind = MFAI_METAL_PREPARES;
    mfai_metal_kernel_define_operands(&dispatch->kernel, p);
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_O, has_out ? p->out.format : p->dout.format);
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_DO, p->dout.format);
    dispatch->kernel.constants[MFA_CONSTANT_OUT] = has_out;
    dispatch->kernel.constants[MFA_CONSTANT_OWN_DELTA] = p->delta.present;
    dispatch->kernel.constants[MFA_CONSTANT_DLOGSUMEXP] = p->dlogsumexp.present;
    dispatch->threadgroups = (uint64_t)(heads * mfai_ceil_div(rows, MFA_PREPARE_ROWS));
    dispatch->work = (uint64_t)(MFA_PREPARE_ROWS * p->value_dim);
    return mfai_metal_call_add_scratch(b->call, MFA_BUFFER_DELTA, (uint64_t)(heads * rows) * sizeof(mfa_metal_delta));
}

static mfa_status_t add_query(const backward_t *b) {
    const mfai_problem_t *p = b->problem;
    const mfai_metal_tile_t tile = find_tile(b, MFAI_METAL_BACKWARD_QUERY);
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(add_tiled(b, "backward_query", &tile, &dispatch));
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_G, p->dquery.format);
    const mfai_metal_grid_t grid = mfai_metal_query_grid(b->call, p, tile.rows);
    dispatch->query_tiles = grid.tiles;
    dispatch->threadgroups = (uint64_t)(grid.batches * p->heads * grid.tiles * (tile.depth / tile.depth_block));
    dispatch->work = (uint64_t)(tile.rows * b->call->params.key_count * (tile.depth + tile.depth_block + p->value_dim));
    return MFA_SUCCESS;
}

static mfa_status_t add_key(const backward_t *b) {
    const mfai_problem_t *p = b->problem;
    const mfai_metal_tile_t tile = find_tile(b, MFAI_METAL_BACKWARD_KEY);
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(add_tiled(b, "backward_key", &tile, &dispatch));
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_G, (p->dkey.present ? p->dkey : p->dvalue).format);
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_GV, (p->dvalue.present ? p->dvalue : p->dkey).format);
    /* A threadgroup sums a block of columns of each. */
    const int64_t head_blocks = tile.depth / tile.depth_block;
    const int64_t most = head_blocks > tile.value_blocks ? head_blocks : tile.value_blocks;
    const int64_t blocks = tile.resident ? 1 : most;
    const mfai_metal_grid_t grid = mfai_metal_key_grid(b->call, p, tile.keys);
    dispatch->key_tiles = grid.tiles;
    dispatch->threadgroups = (uint64_t)(grid.batches * p->kv_heads * grid.tiles * blocks);
    dispatch->work = (uint64_t)(tile.keys * p->group * b->call->params.query_count *
                                (tile.depth + tile.depth_block + p->value_dim + tile.value_block));
    return MFA_SUCCESS;
}

static mfa_status_t add_bias(const backward_t *b) {
    const mfai_problem_t *p = b->problem;
    const int64_t *size = p->dbias.shape;
    const mfai_metal_tile_t tile = find_tile(b, MFAI_METAL_BACKWARD_BIAS);
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(add_tiled(b, "backward_bias", &tile, &dispatch));
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_G, p->dbias.format);
    b->call->params.dbias_size = (mfa_metal_strides){size[0], size[1], size[2], size[3]};
    const int64_t own_rows = size[2] == 1 ? 1 : dispatch->query_tiles,
                  own_keys = size[3] == 1 ? 1 : dispatch->key_tiles;
    dispatch->threadgroups = (uint64_t)(size[0] * size[1] * own_rows * own_keys);
    const int64_t summed = (size[0] == 1 ? p->batch : 1) * (size[1] == 1 ? p->heads : 1) *
                           (size[2] == 1 ? dispatch->query_tiles : 1) * (size[3] == 1 ? dispatch->key_tiles : 1);
    dispatch->work = (uint64_t)(summed * tile.rows * tile.keys * (tile.depth + p->value_dim));
    return MFA_SUCCESS;
}

static mfa_status_t add_sinks(const backward_t *b) {
    const mfai_problem_t *p = b->problem;
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(add_plain(b, "backward_sinks", MFA_SINKS_SIMDGROUPS, MFAI_SEQUENCES, &dispatch));
    dispatch->kind = MFAI_METAL_ADDS_SINKS;
    dispatch->threadgroups = (uint64_t)p->heads;
    dispatch->work = (uint64_t)(p->batch * b->call->params.query_count);
    return MFA_SUCCESS;
}

/* The first kernel that runs after those that compute delta and blocks waits for them, and so do those behind, which
   share nothing else. Fills come before them. */
static void wait_for_delta(mfai_metal_call_t *call, int first) {
    while (first + 1 < call->dispatch_count && call->dispatches[first].threadgroups == 0)
        ++first;
    call->dispatches[first].waits = true;
}

/* "backward_FP16 prepare query:32x32 key:32x16": every kernel that runs, with the rows and keys of its tiles. */
static void name_kernels(mfai_metal_call_t *call, int32_t format) {
    static const char prefix[] = "backward_";
    char *text = call->kernels;
    const size_t size = sizeof call->kernels;
    size_t used = (size_t)snprintf(text, size, "%s%s", prefix, mfai_formats[format].name);
    for (int i = 0; i < call->dispatch_count && used < size; ++i) {
        const mfai_metal_dispatch_t *dispatch = &call->dispatches[i];
        const char *name = dispatch->kernel.name;
        if (dispatch->filled != NULL && i > 0)
            continue; /* is named once */
        if (strncmp(name, prefix, strlen(prefix)) == 0)
            name += strlen(prefix);
        used += (size_t)(dispatch->rows > 0
                             ? snprintf(text + used, size - used, " %s:%dx%d", name, dispatch->rows, dispatch->keys)
                             : snprintf(text + used, size - used, " %s", name));
    }
}

mfa_status_t mfai_metal_backward_make(const mfai_metal_device_t *device, const mfai_problem_t *p,
                                      mfai_metal_call_t *call) {
    const backward_t b = {device, p, call};
    *call = (mfai_metal_call_t){0};
    MFAI_TRY(mfai_metal_check_process());
    MFAI_TRY(mfai_metal_parameters(p, &call->params));
    mfai_metal_add_operands(call, p);
    MFAI_TRY(mfai_metal_add_fills(call, p));
    MFAI_TRY(add_prepare(&b));
    MFAI_TRY(mfai_metal_add_blocks(p, call));
    const int first = call->dispatch_count;
    if (p->dquery.present)
        MFAI_TRY(add_query(&b));
    if (p->dkey.present || p->dvalue.present)
        MFAI_TRY(add_key(&b));
    if (p->dbias.present)
        MFAI_TRY(add_bias(&b));
    if (p->dsinks.present)
        MFAI_TRY(add_sinks(&b));
    wait_for_delta(call, first);
    name_kernels(call, p->query.format);
    return MFA_SUCCESS;
}
#endif

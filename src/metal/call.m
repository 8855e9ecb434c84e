#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/call.h"

#include <stdio.h>

#import "metal/commands.h"
#import "metal/ownership.h"

enum { SCRATCH_ALIGNMENT = 256 };

static uint64_t aligned(uint64_t bytes) {
    return (bytes + SCRATCH_ALIGNMENT - 1) / SCRATCH_ALIGNMENT * SCRATCH_ALIGNMENT;
}

mfa_status_t mfai_metal_call_add_dispatch(mfai_metal_call_t *call, const char *name, mfai_metal_dispatch_t **added) {
    if (call->dispatch_count == MFAI_METAL_DISPATCHES)
        return mfai_fail(MFA_ERROR_EXECUTION_FAILED, "kernel %s is one more than a Metal call has room for, %d", name,
                         MFAI_METAL_DISPATCHES);
    *added = &call->dispatches[call->dispatch_count++];
    **added = (mfai_metal_dispatch_t){.kernel = {.name = name}, .kind = MFAI_METAL_ATTENDS};
    return MFA_SUCCESS;
}

mfa_status_t mfai_metal_call_add_scratch(mfai_metal_call_t *call, unsigned index, uint64_t bytes) {
    if (call->scratch_count == MFAI_METAL_SCRATCHES)
        return mfai_fail(MFA_ERROR_EXECUTION_FAILED,
                         "the scratch memory of buffer %u is one more than a Metal call has room for, %d", index,
                         MFAI_METAL_SCRATCHES);
    call->scratches[call->scratch_count++] = (mfai_metal_scratch_t){index, bytes};
    return MFA_SUCCESS;
}

/* Bytes of one buffer that holds all scratches. */
static uint64_t workspace_size(const mfai_metal_call_t *call) {
    uint64_t bytes = 0;
    for (int i = 0; i < call->scratch_count; ++i)
        bytes += aligned(call->scratches[i].bytes);
    return bytes;
}

void mfai_metal_call_describe(const mfai_metal_device_t *device, const mfai_metal_call_t *call, mfa_plan_t *plan) {
    int tiled = 0;
    while (tiled + 1 < call->dispatch_count && call->dispatches[tiled].rows == 0)
        ++tiled;
    plan->tile_queries = call->dispatches[tiled].rows;
    plan->tile_keys = call->dispatches[tiled].keys;
    plan->key_splits = (int32_t)call->params.splits;
    plan->num_threads = 1; /* the caller's, which waits */
    plan->workspace_bytes = workspace_size(call);
    snprintf(plan->kernel, sizeof plan->kernel, "%s", call->kernels);
    snprintf(plan->isa, sizeof plan->isa, "apple%d", device->family);
}

/* ------------------------------------------------------------------ what a run holds */

typedef struct {
    mfai_metal_operand_t operands[MFAI_OPERANDS];
    int operand_count;
    id<MTLBuffer> workspace;                                      /* retained; nil: not needed */
    id<MTLComputePipelineState> pipelines[MFAI_METAL_DISPATCHES]; /* nil: nothing to do */
} resources_t;

static bool is_vectorised(const mfai_metal_operand_t *operand) {
    const mfai_view_t *view = &operand->origin;
    if (mfai_view_is_empty(view))
        return true;
    const int64_t vector = mfai_view_has_codes(view) ? MFA_CODES_VECTOR : MFA_VECTOR;
    bool regular = operand->stride[3] == 1 && view->shape[3] % vector == 0;
    for (int axis = 0; axis < 3; ++axis)
        regular = regular && operand->stride[axis] % vector == 0;
    return regular && operand->offset % (NSUInteger)mfai_format_bytes(view->format, vector) == 0;
}

static mfa_status_t open_operands(mfai_metal_device_t *device, mfai_metal_call_t *call, bool encoded,
                                  resources_t *resources, bool *vectors) {
    *vectors = true;
    for (int i = 0; i < call->operand_count; ++i) {
        const mfai_metal_operand_use_t *use = &call->operands[i];
        mfai_metal_operand_t *operand = &resources->operands[i];
        MFAI_TRY(mfai_metal_operand_open(device, use->name, use->view, use->access, encoded, operand));
        resources->operand_count = i + 1;
        *use->strides =
            (mfa_metal_strides){operand->stride[0], operand->stride[1], operand->stride[2], operand->stride[3]};
        if (use->has_rows)
            *vectors = *vectors && is_vectorised(operand);
    }
    return MFA_SUCCESS;
}

static mfa_status_t open_pipelines(mfai_metal_device_t *device, mfai_metal_call_t *call, bool vectors,
                                   resources_t *resources) {
    for (int i = 0; i < call->dispatch_count; ++i) {
        mfai_metal_dispatch_t *dispatch = &call->dispatches[i];
        if (dispatch->threadgroups == 0)
            continue;
        dispatch->kernel.constants[MFA_CONSTANT_VECTORS] = vectors;
        MFAI_TRY(mfai_metal_pipelines_find(&device->pipelines, device->gpu, &dispatch->kernel, dispatch->threads,
                                           &resources->pipelines[i]));
    }
    return MFA_SUCCESS;
}

static mfa_status_t open_all(mfai_metal_device_t *device, mfai_metal_call_t *call, bool encoded,
                             resources_t *resources) {
    bool vectors;
    MFAI_TRY(open_operands(device, call, encoded, resources, &vectors));
    MFAI_TRY(open_pipelines(device, call, vectors, resources));
    const uint64_t bytes = workspace_size(call);
    if (bytes == 0)
        return MFA_SUCCESS;
    return encoded ? mfai_metal_workspace_make(device->gpu, bytes, &resources->workspace)
                   : mfai_metal_workspaces_take(&device->workspaces, device->gpu, bytes, &resources->workspace);
}

static void close_operands(resources_t *resources) {
    for (int i = 0; i < resources->operand_count; ++i)
        mfai_metal_operand_close(&resources->operands[i]);
}

/* ------------------------------------------------------------------ encoding */

static void bind_one(id<MTLComputeCommandEncoder> encoder, id<MTLBuffer> buffer, NSUInteger offset, unsigned index) {
    static const char nothing[16]; /* of an empty operand, which a kernel may name but never reads */
    if (buffer != nil)
        [encoder setBuffer:buffer offset:offset atIndex:index];
    else
        [encoder setBytes:nothing length:sizeof nothing atIndex:index];
}

/* Queries that a kernel before attention has written are attention's. */
static unsigned number_of(const mfai_metal_scratch_t *scratch, const mfai_metal_dispatch_t *dispatch) {
    return scratch->index == MFA_BUFFER_TURNED && dispatch->kind == MFAI_METAL_ATTENDS ? MFA_BUFFER_QUERY
                                                                                       : scratch->index;
}

/* What a dispatch reads and writes; one that fills, nothing but a result. */
static void bind_all(id<MTLComputeCommandEncoder> encoder, const mfai_metal_call_t *call,
                     const mfai_metal_dispatch_t *dispatch, const resources_t *resources) {
    for (int i = 0; i < call->operand_count; ++i) {
        const mfai_metal_operand_t *operand = &resources->operands[i];
        if (dispatch->filled == call->operands[i].view)
            bind_one(encoder, operand->buffer, operand->offset, MFA_BUFFER_FILLED);
        else if (dispatch->filled == NULL && call->operands[i].kinds & dispatch->kind)
            bind_one(encoder, operand->buffer, operand->offset, call->operands[i].index);
    }
    uint64_t offset = 0;
    for (int i = 0; i < call->scratch_count && dispatch->filled == NULL; ++i) {
        const mfai_metal_scratch_t *scratch = &call->scratches[i];
        bind_one(encoder, scratch->bytes > 0 ? resources->workspace : nil, offset, number_of(scratch, dispatch));
        offset += aligned(scratch->bytes);
    }
}

static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

typedef struct {
    const mfai_metal_device_t *device;
    mfai_metal_call_t *call;
    const resources_t *resources;
    mfai_metal_commands_t *commands;
    uint64_t work; /* encoded in the command buffer */
} encoding_t;

/* Makes room for a dispatch of so much work. What a caller's command buffer gets to do is the caller's business. */
static mfa_status_t make_room(encoding_t *e, const mfai_metal_dispatch_t *dispatch, uint64_t work,
                              id<MTLComputePipelineState> pipeline) {
    const bool fits = work <= e->device->most_work && e->work <= e->device->most_work - work;
    if (e->commands->queue == nil || e->work == 0 || fits) {
        e->work += work;
        return MFA_SUCCESS;
    }
    MFAI_TRY(mfai_metal_commands_renew(e->commands));
    bind_all(e->commands->encoder, e->call, dispatch, e->resources);
    [e->commands->encoder setComputePipelineState:pipeline];
    e->work = work;
    return MFA_SUCCESS;
}

static void describe_filled(mfai_metal_call_t *call, const mfai_view_t *result) {
    const int64_t *size = result->shape;
    for (int i = 0; i < call->operand_count; ++i)
        if (call->operands[i].view == result)
            call->params.filled = *call->operands[i].strides;
    call->params.filled_size = (mfa_metal_strides){size[0], size[1], size[2], size[3]};
}

/* In parts, each of no more work than a device is given in one go. */
static mfa_status_t encode_dispatch(encoding_t *e, const mfai_metal_dispatch_t *dispatch,
                                    id<MTLComputePipelineState> pipeline) {
    mfa_metal_params *params = &e->call->params;
    params->query_tiles = dispatch->query_tiles;
    params->key_tiles = dispatch->key_tiles;
    params->value_blocks = dispatch->value_blocks;
    if (dispatch->filled != NULL)
        describe_filled(e->call, dispatch->filled);
    [e->commands->encoder setComputePipelineState:pipeline];
    const uint64_t work = dispatch->work > 0 ? dispatch->work : 1;
    const uint64_t fitting = smaller(e->device->most_work / work, UINT32_MAX), most = fitting > 0 ? fitting : 1;
    for (uint64_t first = 0; first < dispatch->threadgroups; first += most) {
        const uint64_t count = smaller(most, dispatch->threadgroups - first);
        MFAI_TRY(make_room(e, dispatch, count * work, pipeline));
        params->first_threadgroup = (mfa_index)first;
        [e->commands->encoder setBytes:params length:sizeof *params atIndex:MFA_BUFFER_PARAMS];
        [e->commands->encoder dispatchThreadgroups:MTLSizeMake(count, 1, 1)
                             threadsPerThreadgroup:MTLSizeMake(dispatch->threads, 1, 1)];
    }
    return MFA_SUCCESS;
}

/* Fails only with command buffers of its own. */
static mfa_status_t encode(encoding_t e) {
    const mfai_metal_dispatch_t *bound = NULL;
    for (int i = 0; i < e.call->dispatch_count; ++i) {
        if (e.resources->pipelines[i] == nil)
            continue;
        const mfai_metal_dispatch_t *dispatch = &e.call->dispatches[i];
        if (bound == NULL || bound->kind != dispatch->kind || bound->filled != dispatch->filled)
            bind_all(e.commands->encoder, e.call, dispatch, e.resources);
        bound = dispatch;
        if (dispatch->waits)
            mfai_metal_commands_barrier(e.commands);
        MFAI_TRY(encode_dispatch(&e, dispatch, e.resources->pipelines[i]));
    }
    return MFA_SUCCESS;
}

/* ------------------------------------------------------------------ both ways to run */

static bool has_work(const mfai_metal_call_t *call) {
    for (int i = 0; i < call->dispatch_count; ++i)
        if (call->dispatches[i].threadgroups > 0)
            return true;
    return false;
}

static mfa_status_t run_opened(mfai_metal_device_t *device, mfai_metal_call_t *call, const resources_t *resources,
                               double *seconds) {
    mfai_metal_commands_t commands;
    MFAI_TRY(mfai_metal_commands_open(device->queue, &commands));
    MFAI_TRY(encode((encoding_t){device, call, resources, &commands, 0}));
    MFAI_TRY(mfai_metal_commands_finish(&commands));
    *seconds = commands.seconds;
    for (int i = 0; i < resources->operand_count; ++i)
        mfai_metal_operand_finish(&resources->operands[i]);
    return MFA_SUCCESS;
}

mfa_status_t mfai_metal_call_run(mfai_metal_device_t *device, mfai_metal_call_t *call, double *seconds) {
    if (!has_work(call))
        return MFA_SUCCESS;
    @autoreleasepool {
        resources_t resources = {0};
        mfa_status_t status = open_all(device, call, false, &resources);
        if (status == MFA_SUCCESS)
            status = run_opened(device, call, &resources, seconds);
        mfai_metal_workspaces_give(&device->workspaces, resources.workspace);
        close_operands(&resources);
        return status;
    }
}

static mfa_status_t encode_opened(mfai_metal_device_t *device, mfai_metal_call_t *call, const resources_t *resources,
                                  void *target) {
    mfai_metal_commands_t commands;
    MFAI_TRY(mfai_metal_commands_join(device->gpu, target, &commands));
    MFAI_TRY(encode((encoding_t){device, call, resources, &commands, 0}));
    return mfai_metal_commands_finish(&commands);
}

mfa_status_t mfai_metal_call_encode(mfai_metal_device_t *device, mfai_metal_call_t *call, void *target) {
    @autoreleasepool {
        resources_t resources = {0};
        mfa_status_t status = open_all(device, call, true, &resources);
        if (status == MFA_SUCCESS)
            status = encode_opened(device, call, &resources, target);
        /* What was encoded is retained by the command buffer. */
        MFAI_RELEASE(resources.workspace);
        close_operands(&resources);
        return status;
    }
}
#endif

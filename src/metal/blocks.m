#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/blocks.h"

#include <inttypes.h>

#include "core/integers.h"

/* The size along an axis of what lists say, 1 if all of them repeat there. */
static int64_t joined(const mfai_problem_t *p, int axis, int64_t size) {
    const mfai_view_t *const lists[] = {&p->kv_num_blocks,   &p->kv_indices, &p->full_kv_num_blocks,
                                        &p->full_kv_indices, &p->block_mask, &p->mask_indices};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; ++i)
        if (lists[i]->present && lists[i]->stride[axis] != 0)
            return size;
    return 1;
}

static bool has_lists(const mfai_problem_t *p) { return p->kv_num_blocks.present && p->kv_indices.present; }

static bool has_full_lists(const mfai_problem_t *p) {
    return p->full_kv_num_blocks.present && p->full_kv_indices.present;
}

static mfa_status_t add_scratch(mfai_metal_call_t *call, int64_t lines) {
    const mfa_metal_params *params = &call->params;
    int64_t bytes = (int64_t)sizeof(mfa_u32);
    bool overflows = __builtin_mul_overflow(bytes, lines, &bytes);
    overflows = __builtin_mul_overflow(bytes, params->blocks.row, &bytes) || overflows;
    if (overflows)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION,
                         "no memory for the blocks of the scores, %" PRId64 " lines of %" PRId64 " words", lines,
                         params->blocks.row);
    return mfai_metal_call_add_scratch(call, MFA_BUFFER_BLOCKS, (uint64_t)bytes);
}

static void set_params(const mfai_problem_t *p, bool masked, mfa_metal_params *params) {
    params->block_lines = mfai_ceil_div(p->query_count, p->block_rows);
    params->block_columns = mfai_ceil_div(p->key_count, p->block_keys);
    params->block_words = mfai_ceil_div(params->block_columns, MFA_BLOCK_BITS);
    params->block_heads = joined(p, 1, p->heads);
    params->listed_blocks = p->kv_indices.shape[3];
    params->listed_full_blocks = p->full_kv_indices.shape[3];
    params->listed_masks = p->mask_indices.shape[3];
    params->mask_count = p->masks.shape[0];
    params->blocks.row = 2 * params->block_words + (masked ? params->block_columns : 0);
    params->blocks.head = params->block_heads > 1 ? params->blocks.row * params->block_lines : 0;
}

mfa_status_t mfai_metal_add_blocks(const mfai_problem_t *p, mfai_metal_call_t *call) {
    if (!(p->features & MFAI_BLOCKS))
        return MFA_SUCCESS;
    mfa_metal_params *params = &call->params;
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(mfai_metal_call_add_dispatch(call, "blocks", &dispatch));
    mfai_metal_kernel_set_features(&dispatch->kernel, p, MFAI_BLOCKS);
    uint32_t *constants = dispatch->kernel.constants;
    constants[MFA_CONSTANT_BLOCK_TABLE] = p->block_mask.present;
    constants[MFA_CONSTANT_BLOCK_LISTS] = has_lists(p);
    constants[MFA_CONSTANT_FULL_LISTS] = has_full_lists(p);
    set_params(p, constants[MFA_CONSTANT_BLOCK_MASKS] != 0, params);

    const int64_t batches = joined(p, 0, p->batch);
    int64_t lines;
    bool overflows = __builtin_mul_overflow(params->block_lines, params->block_heads, &lines);
    params->blocks.batch = batches > 1 ? lines * params->blocks.row : 0;
    overflows = __builtin_mul_overflow(lines, batches, &lines) || overflows;
    dispatch->threads = MFA_BLOCKS_THREADS;
    dispatch->threadgroups = (uint64_t)(params->block_columns > 0 ? lines : 0);
    dispatch->work = (uint64_t)(params->block_columns + params->listed_blocks + params->listed_full_blocks);
    dispatch->kind = MFAI_METAL_LISTS_BLOCKS;
    return add_scratch(call, overflows ? INT64_MAX : lines);
}
#endif

#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/append.h"

#include "core/integers.h"
#import "metal/sequences.h"

static mfa_status_t add(mfai_metal_call_t *call, const mfai_problem_t *p, const char *name, mfai_metal_grid_t grid,
                        int64_t elements, mfai_metal_dispatch_t **added) {
    MFAI_TRY(mfai_metal_call_add_dispatch(call, name, added));
    mfai_metal_kernel_define_operands(&(*added)->kernel, p);
    mfai_metal_kernel_set_features(&(*added)->kernel, p,
                                   MFAI_SEQUENCES | MFAI_ROTARY | MFAI_KEY_CODES | MFAI_VALUE_CODES);
    (*added)->kind = MFAI_METAL_APPENDS;
    (*added)->threads = MFA_APPEND_SIMDGROUPS * MFAI_METAL_SIMD_WIDTH;
    (*added)->threadgroups = (uint64_t)(grid.batches * grid.tiles);
    (*added)->work = (uint64_t)(MFA_APPEND_ROWS * elements);
    return MFA_SUCCESS;
}

/* Turned queries lie as they would if they were packed. */
static mfa_status_t add_turned(mfai_metal_call_t *call, const mfai_problem_t *p) {
    const int64_t *size = p->query.shape, row = size[3], head = row * size[2], batch = head * size[1];
    call->params.turned = (mfa_metal_strides){batch, head, row, 1};
    return mfai_metal_call_add_scratch(call, MFA_BUFFER_TURNED,
                                       (uint64_t)(batch * size[0] * mfai_view_element(&p->query)));
}

mfa_status_t mfai_metal_add_append(mfai_metal_call_t *call, const mfai_problem_t *p) {
    if (!(p->features & MFAI_APPEND))
        return MFA_SUCCESS;
    call->params.new_rows = p->new_key.shape[2];
    mfai_metal_dispatch_t *dispatch;
    const mfai_metal_grid_t new_rows = mfai_metal_new_grid(p, MFA_APPEND_ROWS);
    MFAI_TRY(add(call, p, "append", new_rows, p->kv_heads * (p->head_dim + p->value_dim), &dispatch));
    dispatch->key_tiles = new_rows.tiles;
    if (!(p->features & MFAI_ROTARY))
        return MFA_SUCCESS;
    call->params.rotary_rows = p->rotary_cos.shape[2];
    call->params.rotary_pairs = call->params.rotary_rows > 0 ? p->rotary_cos.shape[3] : 0;
    call->params.queries_step = mfai_queries_step(p);
    const mfai_metal_grid_t queries = mfai_metal_query_grid(call, p, MFA_APPEND_ROWS);
    MFAI_TRY(add(call, p, "rotate", queries, p->heads * p->head_dim, &dispatch));
    dispatch->query_tiles = queries.tiles;
    return add_turned(call, p);
}

mfa_status_t mfai_metal_add_quantise(mfai_metal_call_t *call, const mfai_problem_t *p) {
    if (!mfai_metal_keys_are_integers(p))
        return MFA_SUCCESS;
    if (!(p->features & MFAI_ROTARY))
        MFAI_TRY(add_turned(call, p));
    mfai_metal_dispatch_t *dispatch;
    const mfai_metal_grid_t queries = mfai_metal_query_grid(call, p, MFA_APPEND_ROWS);
    MFAI_TRY(add(call, p, "quantise", queries, p->heads * p->head_dim, &dispatch));
    dispatch->query_tiles = queries.tiles;
    dispatch->waits = call->dispatch_count > 1;
    const int64_t rows = call->params.stored_batches * p->heads * call->params.stored_rows;
    return mfai_metal_call_add_scratch(call, MFA_BUFFER_QUERY_TERMS, (uint64_t)rows * sizeof(mfa_metal_query_terms));
}
#endif

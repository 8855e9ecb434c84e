#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/sequences.h"

#include "core/integers.h"

/* ------------------------------------------------------------------ grids */

/* mfa_sequences.h: a packed sequence's tiles begin at tile starts[number] / SIZE + number. */
static mfai_metal_grid_t grid_of(const mfai_view_t *starts, int64_t batch, int64_t stored_rows, int64_t most_rows,
                                 int tile) {
    if (starts->present)
        return (mfai_metal_grid_t){batch > 0 ? stored_rows / tile + batch : 0, 1};
    return (mfai_metal_grid_t){mfai_ceil_div(most_rows, tile), batch};
}

mfai_metal_grid_t mfai_metal_query_grid(const mfai_metal_call_t *call, const mfai_problem_t *p, int tile_rows) {
    return grid_of(&p->query_starts, p->batch, p->query.shape[2], call->params.query_count, tile_rows);
}

mfai_metal_grid_t mfai_metal_key_grid(const mfai_metal_call_t *call, const mfai_problem_t *p, int tile_keys) {
    return grid_of(&p->key_starts, p->batch, p->key.shape[2], call->params.key_count, tile_keys);
}

mfai_metal_grid_t mfai_metal_new_grid(const mfai_problem_t *p, int tile_rows) {
    const int64_t rows = p->new_key.shape[2];
    return grid_of(&p->new_starts, p->batch, rows, rows, tile_rows);
}

/* ------------------------------------------------------------------ rows of no sequence */

static mfa_status_t add_fill(mfai_metal_call_t *call, const mfai_view_t *result, bool is_logsumexp) {
    if (!result->present)
        return MFA_SUCCESS;
    const int64_t rows = result->shape[0] * result->shape[1] * result->shape[2];
    mfai_metal_dispatch_t *dispatch;
    MFAI_TRY(mfai_metal_call_add_dispatch(call, "fill", &dispatch));
    mfai_metal_kernel_define_type(&dispatch->kernel, MFAI_METAL_G, result->format);
    dispatch->filled = result;
    dispatch->kernel.constants[MFA_CONSTANT_LOGSUMEXP] = is_logsumexp;
    dispatch->threads = MFA_FILL_SIMDGROUPS * MFAI_METAL_SIMD_WIDTH;
    dispatch->threadgroups = (uint64_t)mfai_ceil_div(rows, MFA_FILL_ROWS);
    dispatch->work = (uint64_t)(MFA_FILL_ROWS * result->shape[3]);
    return MFA_SUCCESS;
}

/* Whether sequences have all rows of queries, or of keys. */
static bool all_queries_are_covered(const mfai_problem_t *p) {
    if (p->lengths == NULL)
        return (p->features & MFAI_SEQUENCES) == 0;
    int64_t rows = 0;
    for (int64_t i = 0; i < p->batch; ++i)
        rows += p->lengths[i].queries;
    return rows == p->query.shape[0] * p->query.shape[2];
}

static bool all_keys_are_covered(const mfai_problem_t *p) {
    if (p->lengths == NULL || p->key_batches.present || p->page_table.present)
        return (p->features & MFAI_SEQUENCES) == 0;
    int64_t rows = 0;
    for (int64_t i = 0; i < p->batch; ++i)
        rows += p->lengths[i].keys;
    return rows == p->key.shape[0] * p->key.shape[2];
}

mfa_status_t mfai_metal_add_fills(mfai_metal_call_t *call, const mfai_problem_t *p) {
    const bool is_backward = p->pass == MFAI_BACKWARD;
    if (!all_queries_are_covered(p)) {
        MFAI_TRY(add_fill(call, is_backward ? &p->dquery : &p->out, false));
        if (!is_backward)
            MFAI_TRY(add_fill(call, &p->logsumexp, true));
    }
    if (is_backward && !all_keys_are_covered(p)) {
        MFAI_TRY(add_fill(call, &p->dkey, false));
        MFAI_TRY(add_fill(call, &p->dvalue, false));
    }
    return MFA_SUCCESS;
}
#endif

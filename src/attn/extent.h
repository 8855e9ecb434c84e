/* A sequence, as mfa_rules.h wants it. */
#ifndef MFA_ATTN_EXTENT_H
#define MFA_ATTN_EXTENT_H

#include "core/problem.h"
#include "mfa_rules.h"

static inline mfa_extent mfai_extent_of(const mfai_problem_t *p, int64_t batch) {
    mfa_extent extent = {.query_count = p->query_count,
                         .key_count = p->key_count,
                         .left = p->window_left,
                         .right = p->window_right,
                         .chunk = p->chunk};
    if (p->lengths != NULL) {
        extent.query_count = p->lengths[batch].queries;
        extent.key_count = p->lengths[batch].keys;
    }
    extent.offset = p->is_bottom_right ? extent.key_count - extent.query_count : 0;
    return extent;
}

#endif

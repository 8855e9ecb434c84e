/* The sequence that a batch is, as mfa_rules.h wants it. */
#ifndef MFA_ATTN_EXTENT_H
#define MFA_ATTN_EXTENT_H

#include "core/problem.h"
#include "mfa_rules.h"

static inline mfa_extent mfai_extent_of(const mfai_problem_t *p, int64_t batch) {
    (void)batch; /* all are alike so far */
    return (mfa_extent){.query_count = p->query_count,
                        .key_count = p->key_count,
                        .offset = p->offset,
                        .left = p->window_left,
                        .right = p->window_right};
}

#endif

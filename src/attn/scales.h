/* Factors of stored values, where a call has some. */
#ifndef MFA_ATTN_SCALES_H
#define MFA_ATTN_SCALES_H

#include "core/problem.h"
#include "mfa_rules.h"

static inline float mfai_factor_of(const mfai_view_t *factors, int64_t batch, int64_t kv_head) {
    if (!factors->present)
        return 1;
    return ((const float *)factors->data)[batch * factors->stride[0] + kv_head * factors->stride[1]];
}

/* Times a product of a query and a key, the score before softcap and biases. */
static inline float mfai_score_scale(const mfai_problem_t *p, int64_t batch, int64_t kv_head) {
    return mfa_rule_scale(p->softmax_scale, mfai_factor_of(&p->query_scale, batch, kv_head),
                          mfai_factor_of(&p->key_scale, batch, kv_head));
}

#endif

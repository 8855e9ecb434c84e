/*
 * A validated, normalised attention call. Backends read this and nothing else: nothing past this point checks or
 * interprets arguments again.
 */
#ifndef MFA_CORE_PROBLEM_H
#define MFA_CORE_PROBLEM_H

#include "core/tensor.h"

typedef struct mfai_problem {
    int64_t batch, heads, kv_heads, group; /* group = heads / kv_heads */
    int64_t query_count, key_count, head_dim, value_dim;
    mfai_view_t query, key, value, out, logsumexp;
    mfai_view_t bool_mask, additive_mask; /* stretched to (B, H, Nq, Nkv) */
    mfai_view_t alibi_slopes;             /* stretched to (B, H, 1, 1) */
    mfai_view_t sinks;
    float softmax_scale;                       /* literal */
    float softcap;                             /* 0: off */
    bool exact_weights;                        /* softmax weights stay float32 */
    int64_t offset, window_left, window_right; /* for mfa_rules.h; causal is window_right = 0; -1: unbounded */
} mfai_problem_t;

/* Checks `desc` against every rule that does not depend on a backend. */
mfa_status_t mfai_problem_import(mfa_context_t context, const mfa_attention_desc_t *desc, mfai_problem_t *problem);

#endif

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
    float dropout_p;                           /* 0: off */
    uint64_t dropout_seed, dropout_offset;
} mfai_problem_t;

/* What a backward call has beside the forward call, whose out and logsumexp it reads. Gradients that are not present are not
   wanted. */
typedef struct mfai_gradients {
    mfai_view_t dout;                         /* (B, H, Nq, Dv) */
    mfai_view_t dquery, dkey, dvalue, dsinks; /* as their operands */
    mfai_view_t dbias;                        /* (B, H, Nq, Nkv) or 1 where it is summed, not stretched */
} mfai_gradients_t;

/* Whether an operand lies in memory that only the device can reach. `gradients` is NULL for a forward call. */
bool mfai_problem_is_on_device(const mfai_problem_t *problem, const mfai_gradients_t *gradients);

/* Checks `desc` against every rule that does not depend on a backend. */
mfa_status_t mfai_problem_import(mfa_context_t context, const mfa_attention_desc_t *desc, mfai_problem_t *problem);

/* Likewise for a backward call. */
mfa_status_t mfai_gradients_import(mfa_context_t context, const mfa_attention_backward_desc_t *desc,
                                   mfai_problem_t *problem, mfai_gradients_t *gradients);

#endif

#include "metal/parameters.h"

#include <float.h>

#include "attn/extent.h"
#include "core/limits.h"

/* GPUs take a denormal number for 0, and a softcap divides. */
static float normal(float softcap) { return softcap > 0 && softcap < FLT_MIN ? FLT_MIN : softcap; }

mfa_status_t mfai_metal_parameters(const mfai_problem_t *p, mfa_metal_params *params) {
    MFAI_TRY(mfai_check_head_dims("Metal", p));
    *params = (mfa_metal_params){.batch = p->batch,
                                 .heads = p->heads,
                                 .kv_heads = p->kv_heads,
                                 .group = p->group,
                                 .query_count = p->query_count,
                                 .key_count = p->key_count,
                                 .head_dim = p->head_dim,
                                 .value_dim = p->value_dim,
                                 .offset = mfai_extent_of(p, 0).offset,
                                 .window_left = p->window_left,
                                 .window_right = p->window_right,
                                 .block_rows = p->block_rows,
                                 .block_keys = p->block_keys,
                                 .splits = 1,
                                 .split_keys = p->key_count,
                                 .softmax_scale = p->softmax_scale,
                                 .softcap = normal(p->softcap),
                                 .keep_factor = 1 / (1 - p->dropout_p),
                                 .dropout_threshold = mfa_rule_dropout_threshold(p->dropout_p),
                                 .dropout_key = mfa_rule_dropout_key(p->dropout_seed, p->dropout_offset)};
    return MFA_SUCCESS;
}

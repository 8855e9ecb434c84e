#include "metal/parameters.h"

#include <float.h>

#include "core/limits.h"

/* GPUs take a denormal number for 0, and a softcap divides. */
static float normal(float softcap) { return softcap > 0 && softcap < FLT_MIN ? FLT_MIN : softcap; }

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Whoever states more rows than a sequence has room for gets no threadgroups for them. */
static void describe_sequences(const mfai_problem_t *p, mfa_metal_params *params) {
    params->stored_batches = p->query.shape[0];
    params->stored_rows = p->query.shape[2];
    params->cache_batches = p->key.shape[0];
    params->cache_rows = p->key.shape[2];
    params->cache_capacity = p->key.shape[2] * (p->page_table.present ? p->page_table.shape[3] : 1);
    if (p->key.shape[0] == 0)
        params->cache_capacity = 0; /* whatever a list says */
    params->query_count = smaller(p->query_count, params->stored_rows);
    params->key_count = smaller(p->key_count, params->cache_capacity);
}

/* Shared by all that there are: in one line, or one group. */
static void describe_codes(const mfai_quantization_t *quantization, int64_t stored_rows, mfa_metal_coding *coding) {
    const int64_t rows = quantization->rows;
    coding->rows = rows;
    coding->columns = quantization->columns;
    coding->row_shift = rows == 0 || rows >= stored_rows ? 63
                        : (rows & (rows - 1)) == 0       ? __builtin_ctzll((uint64_t)rows)
                                                         : -1;
    coding->columns_inverse =
        quantization->columns > 1 ? ((UINT64_C(1) << 40) - 1) / (uint64_t)quantization->columns + 1 : 0;
}

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
                                 .offset = p->is_bottom_right ? p->key_count - p->query_count : 0,
                                 .stored_batches = p->batch,
                                 .stored_rows = p->query_count,
                                 .is_bottom_right = p->is_bottom_right,
                                 .chunk = p->chunk,
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
    describe_codes(&p->key_quantization, p->key.shape[2], &params->key_coding);
    describe_codes(&p->value_quantization, p->value.shape[2], &params->value_coding);
    if (p->features & MFAI_SEQUENCES)
        describe_sequences(p, params);
    return MFA_SUCCESS;
}

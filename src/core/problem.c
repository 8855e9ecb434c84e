#include "core/problem.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "core/overlap.h"
#include "core/versioned.h"

static mfa_status_t import_views(mfa_context_t context, const mfa_attention_desc_t *desc, mfai_problem_t *problem) {
    const unsigned fp32 = MFAI_PRECISION_BIT(MFA_PRECISION_FP32);
    MFA_TRY(mfai_view_import("query", context, desc->query, MFAI_FLOATING, &problem->query));
    MFA_TRY(mfai_view_import("key", context, desc->key, MFAI_FLOATING, &problem->key));
    MFA_TRY(mfai_view_import("value", context, desc->value, MFAI_FLOATING, &problem->value));
    MFA_TRY(mfai_view_import("out", context, desc->out, MFAI_FLOATING, &problem->out));
    MFA_TRY(mfai_view_import("logsumexp", context, desc->logsumexp, fp32, &problem->logsumexp));
    MFA_TRY(mfai_view_import("bool_mask", context, desc->bool_mask, MFAI_PRECISION_BIT(MFA_PRECISION_BOOL),
                             &problem->bool_mask));
    MFA_TRY(mfai_view_import("additive_mask", context, desc->additive_mask, MFAI_FLOATING, &problem->additive_mask));
    MFA_TRY(mfai_view_import("alibi_slopes", context, desc->alibi_slopes, fp32, &problem->alibi_slopes));
    MFA_TRY(mfai_view_import("sinks", context, desc->sinks, fp32, &problem->sinks));
    MFA_REQUIRE(problem->query.present, "query is NULL");
    MFA_REQUIRE(problem->key.present, "key is NULL");
    MFA_REQUIRE(problem->value.present, "value is NULL");
    MFA_REQUIRE(problem->out.present, "out is NULL");
    MFA_REQUIRE(problem->key.precision == problem->query.precision, "key.precision is %s, expected query's, %s",
                mfai_precision_name(problem->key.precision), mfai_precision_name(problem->query.precision));
    MFA_REQUIRE(problem->value.precision == problem->query.precision, "value.precision is %s, expected query's, %s",
                mfai_precision_name(problem->value.precision), mfai_precision_name(problem->query.precision));
    return MFA_SUCCESS;
}

static mfa_status_t check_shapes(mfai_problem_t *p) {
    p->batch = p->query.shape[0];
    p->heads = p->query.shape[1];
    p->query_count = p->query.shape[2];
    p->head_dim = p->query.shape[3];
    p->kv_heads = p->key.shape[1];
    p->key_count = p->key.shape[2];
    p->value_dim = p->value.shape[3];
    MFA_REQUIRE(p->head_dim >= 1, "query has head_dim 0, expected 1 or more");
    MFA_REQUIRE(p->value_dim >= 1, "value has head_dim 0, expected 1 or more");
    MFA_REQUIRE(p->heads >= 1, "query has 0 heads, expected 1 or more");
    MFA_REQUIRE(p->kv_heads >= 1 && p->heads % p->kv_heads == 0,
                "key has %" PRId64 " heads, expected a divisor of query's %" PRId64, p->kv_heads, p->heads);
    p->group = p->heads / p->kv_heads;
    const int64_t b = p->batch, h = p->heads, hkv = p->kv_heads, nq = p->query_count, nkv = p->key_count;
    MFA_TRY(mfai_view_expect("key", &p->key, (int64_t[]){b, hkv, nkv, p->head_dim}, false));
    MFA_TRY(mfai_view_expect("value", &p->value, (int64_t[]){b, hkv, nkv, p->value_dim}, false));
    MFA_TRY(mfai_view_expect("out", &p->out, (int64_t[]){b, h, nq, p->value_dim}, false));
    if (p->logsumexp.present)
        MFA_TRY(mfai_view_expect("logsumexp", &p->logsumexp, (int64_t[]){b, h, nq, 1}, false));
    if (p->bool_mask.present)
        MFA_TRY(mfai_view_expect("bool_mask", &p->bool_mask, (int64_t[]){b, h, nq, nkv}, true));
    if (p->additive_mask.present)
        MFA_TRY(mfai_view_expect("additive_mask", &p->additive_mask, (int64_t[]){b, h, nq, nkv}, true));
    if (p->alibi_slopes.present) {
        MFA_REQUIRE(p->alibi_slopes.shape[1] == h, "alibi_slopes has %" PRId64 " heads, expected query's %" PRId64,
                    p->alibi_slopes.shape[1], h);
        MFA_TRY(mfai_view_expect("alibi_slopes", &p->alibi_slopes, (int64_t[]){b, h, 1, 1}, true));
    }
    if (p->sinks.present)
        MFA_TRY(mfai_view_expect("sinks", &p->sinks, (int64_t[]){1, h, 1, 1}, false));
    return MFA_SUCCESS;
}

bool mfai_problem_is_on_device(const mfai_problem_t *p, const mfai_gradients_t *g) {
    const mfai_gradients_t none = {0};
    g = g != NULL ? g : &none;
    const mfai_view_t *const views[] = {&p->query,     &p->key,           &p->value,        &p->out,    &p->logsumexp,
                                        &p->bool_mask, &p->additive_mask, &p->alibi_slopes, &p->sinks,  &g->dout,
                                        &g->dquery,    &g->dkey,          &g->dvalue,       &g->dsinks, &g->dbias};
    for (size_t i = 0; i < sizeof views / sizeof *views; ++i)
        if (mfai_view_is_on_device(views[i]))
            return true;
    return false;
}

typedef struct {
    const char *name;
    const mfai_view_t *view;
} operand_t;

/* Each output has elements of its own, which no other operand shares; the first `outputs` operands are written. */
static mfa_status_t check_outputs(const operand_t *operands, int outputs, int count) {
    for (int output = 0; output < outputs; ++output) {
        MFA_TRY(mfai_view_expect_injective(operands[output].name, operands[output].view));
        for (int other = output + 1; other < count; ++other)
            MFA_REQUIRE(!mfai_views_overlap(operands[output].view, operands[other].view),
                        "%s overlaps %s in memory, expected memory of its own", operands[output].name,
                        operands[other].name);
    }
    return MFA_SUCCESS;
}

#define COUNT(operands) ((int)(sizeof(operands) / sizeof *(operands)))

static mfa_status_t check_forward_outputs(const mfai_problem_t *p) {
    const operand_t operands[] = {{"out", &p->out},
                                  {"logsumexp", &p->logsumexp},
                                  {"query", &p->query},
                                  {"key", &p->key},
                                  {"value", &p->value},
                                  {"bool_mask", &p->bool_mask},
                                  {"additive_mask", &p->additive_mask},
                                  {"alibi_slopes", &p->alibi_slopes},
                                  {"sinks", &p->sinks}};
    return check_outputs(operands, 2, COUNT(operands));
}

static mfa_status_t check_gradients(const mfai_problem_t *p, const mfai_gradients_t *g) {
    const operand_t operands[] = {{"dquery", &g->dquery},
                                  {"dkey", &g->dkey},
                                  {"dvalue", &g->dvalue},
                                  {"dbias", &g->dbias},
                                  {"dsinks", &g->dsinks},
                                  {"dout", &g->dout},
                                  {"out", &p->out},
                                  {"logsumexp", &p->logsumexp},
                                  {"query", &p->query},
                                  {"key", &p->key},
                                  {"value", &p->value},
                                  {"bool_mask", &p->bool_mask},
                                  {"additive_mask", &p->additive_mask},
                                  {"alibi_slopes", &p->alibi_slopes},
                                  {"sinks", &p->sinks}};
    return check_outputs(operands, 5, COUNT(operands));
}

/* Bounds beyond any key change nothing; cutting them keeps later sums inside 64 bits. */
static int64_t clamp_bound(int64_t bound, int64_t most) { return bound < most ? bound : most; }

static mfa_status_t set_key_range(const mfa_attention_desc_t *desc, mfai_problem_t *p) {
    const bool causal = desc->flags & MFA_ATTENTION_CAUSAL;
    const bool needed = causal || desc->window_left >= 0 || desc->window_right >= 0 || p->alibi_slopes.present;
    MFA_REQUIRE(desc->alignment >= MFA_ALIGN_NONE && desc->alignment <= MFA_ALIGN_BOTTOM_RIGHT,
                "alignment is %d, not an MFA_ALIGN_...", desc->alignment);
    MFA_REQUIRE(!needed || desc->alignment != MFA_ALIGN_NONE,
                "alignment is MFA_ALIGN_NONE, but a causal mask, window or ALiBi needs TOP_LEFT or BOTTOM_RIGHT");
    MFA_REQUIRE(desc->window_left >= -1, "window_left is %" PRId64 ", expected -1 (unbounded) or more",
                desc->window_left);
    MFA_REQUIRE(desc->window_right >= -1, "window_right is %" PRId64 ", expected -1 (unbounded) or more",
                desc->window_right);
    p->offset = desc->alignment == MFA_ALIGN_BOTTOM_RIGHT ? p->key_count - p->query_count : 0;
    p->window_left = clamp_bound(desc->window_left, p->key_count + p->query_count);
    p->window_right = causal ? 0 : clamp_bound(desc->window_right, p->key_count + p->query_count);
    return MFA_SUCCESS;
}

static mfa_status_t set_scores(const mfa_attention_desc_t *desc, mfai_problem_t *p) {
    const bool literal = desc->flags & MFA_ATTENTION_LITERAL_SCALE;
    MFA_REQUIRE(isfinite(desc->softmax_scale), "softmax_scale is %g, expected a finite number", desc->softmax_scale);
    MFA_REQUIRE(isfinite(desc->softcap) && desc->softcap >= 0,
                "softcap is %g, expected 0 (off) or a finite positive number", desc->softcap);
    const int32_t weights = desc->intermediate_precision;
    MFA_REQUIRE(weights >= MFA_PRECISION_DEFAULT && weights <= MFA_PRECISION_FP32,
                "intermediate_precision is %d, expected MFA_PRECISION_DEFAULT, FP16, BF16 or FP32", weights);
    p->softmax_scale =
        desc->softmax_scale == 0 && !literal ? (float)(1 / sqrt((double)p->head_dim)) : desc->softmax_scale;
    p->softcap = desc->softcap;
    p->exact_weights = weights == MFA_PRECISION_FP32;
    return MFA_SUCCESS;
}

static mfa_status_t set_dropout(const mfa_attention_desc_t *desc, mfai_problem_t *p) {
    MFA_REQUIRE(desc->dropout_p >= 0 && desc->dropout_p < 1, "dropout_p is %g, expected at least 0 and less than 1",
                desc->dropout_p);
    MFA_REQUIRE(desc->reserved == 0, "reserved is %u, expected 0", desc->reserved);
    p->dropout_p = desc->dropout_p;
    p->dropout_seed = desc->dropout_seed;
    p->dropout_offset = desc->dropout_offset;
    return MFA_SUCCESS;
}

/* All but what depends on which operands are written. `desc` is the caller's descriptor, completed. */
static mfa_status_t import(mfa_context_t context, const char *name, const mfa_attention_desc_t *caller,
                           mfa_attention_desc_t *desc, mfai_problem_t *problem) {
    *desc = (mfa_attention_desc_t)MFA_ATTENTION_DESC_INIT;
    *problem = (mfai_problem_t){0};
    MFA_TRY(mfai_struct_import(name, caller, offsetof(mfa_attention_desc_t, dropout_p), sizeof *desc, desc));
    const uint32_t known = MFA_ATTENTION_CAUSAL | MFA_ATTENTION_LITERAL_SCALE;
    MFA_REQUIRE((desc->flags & ~known) == 0, "flags is 0x%x, which has bits this library does not know (known: 0x%x)",
                desc->flags, known);
    MFA_TRY(import_views(context, desc, problem));
    MFA_TRY(check_shapes(problem));
    MFA_TRY(set_key_range(desc, problem));
    MFA_TRY(set_scores(desc, problem));
    return set_dropout(desc, problem);
}

mfa_status_t mfai_problem_import(mfa_context_t context, const mfa_attention_desc_t *caller, mfai_problem_t *problem) {
    mfa_attention_desc_t desc;
    MFA_TRY(import(context, "desc", caller, &desc, problem));
    return check_forward_outputs(problem);
}

/* A gradient has the shape of its operand. */
static mfa_status_t import_gradient(const char *name, mfa_context_t context, const mfa_tensor_t *tensor,
                                    unsigned precisions, const int64_t shape[4], mfai_view_t *view) {
    MFA_TRY(mfai_view_import(name, context, tensor, precisions, view));
    return view->present ? mfai_view_expect(name, view, shape, false) : MFA_SUCCESS;
}

mfa_status_t mfai_gradients_import(mfa_context_t context, const mfa_attention_backward_desc_t *caller,
                                   mfai_problem_t *problem, mfai_gradients_t *gradients) {
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    mfa_attention_desc_t forward;
    mfai_gradients_t *g = gradients;
    *g = (mfai_gradients_t){0};
    MFA_TRY(mfai_struct_import("desc", caller, sizeof desc, sizeof desc, &desc));
    MFA_REQUIRE(desc.flags == 0, "flags is 0x%x, expected 0", desc.flags);
    MFA_TRY(import(context, "forward", desc.forward, &forward, problem));
    MFA_REQUIRE(problem->logsumexp.present, "logsumexp is NULL, expected what the forward call wrote");
    MFA_REQUIRE(desc.dout != NULL, "dout is NULL");
    MFA_REQUIRE(desc.dbias == NULL || forward.additive_mask != NULL, "dbias is set, but additive_mask is NULL");
    MFA_REQUIRE(desc.dsinks == NULL || forward.sinks != NULL, "dsinks is set, but sinks is NULL");
    MFA_TRY(import_gradient("dout", context, desc.dout, MFAI_FLOATING, problem->out.shape, &g->dout));
    MFA_TRY(import_gradient("dquery", context, desc.dquery, MFAI_FLOATING, problem->query.shape, &g->dquery));
    MFA_TRY(import_gradient("dkey", context, desc.dkey, MFAI_FLOATING, problem->key.shape, &g->dkey));
    MFA_TRY(import_gradient("dvalue", context, desc.dvalue, MFAI_FLOATING, problem->value.shape, &g->dvalue));
    MFA_TRY(import_gradient("dsinks", context, desc.dsinks, MFAI_PRECISION_BIT(MFA_PRECISION_FP32),
                            problem->sinks.shape, &g->dsinks));
    if (desc.dbias != NULL) {
        /* The mask's own shape, not the one it was stretched to. */
        mfa_tensor_t mask = MFA_TENSOR_INIT;
        MFA_TRY(mfai_struct_import("additive_mask", forward.additive_mask, sizeof mask, sizeof mask, &mask));
        MFA_TRY(import_gradient("dbias", context, desc.dbias, MFAI_FLOATING, mask.shape, &g->dbias));
    }
    return check_gradients(problem, g);
}

#include "core/append.h"

#include <inttypes.h>

#include "core/integers.h"

static mfa_status_t check_format(const char *name, const mfai_view_t *view, const mfai_problem_t *p, bool may_be_fp32) {
    MFAI_REQUIRE(view->format == p->query.format || (may_be_fp32 && view->format == MFAI_FORMAT_FP32),
                 "%s.precision is %s, expected query's, %s%s", name, mfai_formats[view->format].name,
                 mfai_formats[p->query.format].name, may_be_fp32 ? ", or FP32" : "");
    return MFA_SUCCESS;
}

/* Every position that is asked for is in the tables. */
static mfa_status_t check_positions(const mfai_problem_t *p) {
    for (int64_t b = 0; p->lengths != NULL && b < p->batch; ++b) {
        const mfai_length_t *length = &p->lengths[b];
        const int64_t queries = mfai_queries_step(p) ? length->queries : length->queries > 0;
        const int64_t most = mfai_max(queries, length->new);
        MFAI_REQUIRE(most == 0 || length->rotary <= p->rotary_cos.shape[2] - most,
                     "append.rotary_cos has %" PRId64 " positions, but sequence %" PRId64 " has rows at %" PRId64
                     " to %" PRId64,
                     p->rotary_cos.shape[2], b, length->rotary, length->rotary + most - 1);
    }
    return MFA_SUCCESS;
}

static mfa_status_t check_rotary(const mfai_problem_t *p) {
    MFAI_REQUIRE(p->rotary_sin.present, "append.rotary_cos is set, but append.rotary_sin is NULL");
    MFAI_TRY(check_format("append.rotary_cos", &p->rotary_cos, p, true));
    MFAI_TRY(check_format("append.rotary_sin", &p->rotary_sin, p, true));
    MFAI_REQUIRE(p->rotary_cos.shape[3] <= p->head_dim / 2,
                 "append.rotary_cos has %" PRId64 " columns, expected at most half of query's %" PRId64,
                 p->rotary_cos.shape[3], p->head_dim);
    return check_positions(p);
}

mfa_status_t mfai_append_check(const mfai_problem_t *p) {
    if (!p->new_key.present)
        return MFA_SUCCESS;
    MFAI_TRY(check_format("append.key", &p->new_key, p, false));
    MFAI_TRY(check_format("append.value", &p->new_value, p, false));
    const int64_t batch = p->new_starts.present ? 1 : p->batch;
    MFAI_REQUIRE(p->new_key.shape[0] == batch, "append.key has batch %" PRId64 ", expected %" PRId64,
                 p->new_key.shape[0], batch);
    MFAI_REQUIRE(p->rotary_cos.present || !p->rotary_positions.present,
                 "append.rotary_positions is set, but append.rotary_cos is NULL");
    return p->rotary_cos.present ? check_rotary(p) : MFA_SUCCESS;
}

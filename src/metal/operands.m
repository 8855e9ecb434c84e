#import "metal/operands.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static void add_all(mfai_metal_call_t *call, const mfai_metal_operand_use_t *uses, size_t count) {
    for (size_t i = 0; i < count; ++i)
        mfai_metal_call_add_operand(call, uses[i]);
}

void mfai_metal_add_forward_operands(mfai_metal_call_t *call, const mfai_problem_t *p, mfai_metal_access_t results) {
    mfa_metal_params *s = &call->params;
    const mfai_metal_operand_use_t uses[] = {
        {MFA_BUFFER_QUERY, "query", &p->query, MFAI_METAL_READ, &s->query, true},
        {MFA_BUFFER_KEY, "key", &p->key, MFAI_METAL_READ, &s->key, true},
        {MFA_BUFFER_VALUE, "value", &p->value, MFAI_METAL_READ, &s->value, true},
        {MFA_BUFFER_BOOL_MASK, "bool_mask", &p->bool_mask, MFAI_METAL_READ, &s->bool_mask, false},
        {MFA_BUFFER_ADDITIVE_MASK, "additive_mask", &p->additive_mask, MFAI_METAL_READ, &s->additive_mask, false},
        {MFA_BUFFER_ALIBI_SLOPES, "alibi_slopes", &p->alibi_slopes, MFAI_METAL_READ, &s->alibi_slopes, false},
        {MFA_BUFFER_SINKS, "sinks", &p->sinks, MFAI_METAL_READ, &s->sinks, false},
        {MFA_BUFFER_OUT, "out", &p->out, results, &s->out, true},
        {MFA_BUFFER_LOGSUMEXP, "logsumexp", &p->logsumexp, results, &s->logsumexp, false}};
    add_all(call, uses, COUNT(uses));
}

void mfai_metal_add_gradient_operands(mfai_metal_call_t *call, const mfai_gradients_t *g) {
    mfa_metal_params *s = &call->params;
    const mfai_metal_operand_use_t uses[] = {
        {MFA_BUFFER_DOUT, "dout", &g->dout, MFAI_METAL_READ, &s->dout, true},
        {MFA_BUFFER_DQUERY, "dquery", &g->dquery, MFAI_METAL_WRITE, &s->dquery, true},
        {MFA_BUFFER_DKEY, "dkey", &g->dkey, MFAI_METAL_WRITE, &s->dkey, true},
        {MFA_BUFFER_DVALUE, "dvalue", &g->dvalue, MFAI_METAL_WRITE, &s->dvalue, true},
        {MFA_BUFFER_DBIAS, "dbias", &g->dbias, MFAI_METAL_WRITE, &s->dbias, false},
        {MFA_BUFFER_DSINKS, "dsinks", &g->dsinks, MFAI_METAL_WRITE, &s->dsinks, false}};
    add_all(call, uses, COUNT(uses));
}

/* The gradients of an attention call as include/mfa.h defines them, in double precision, for packed tensors of one
   batch. */
#ifndef NAIVE_GRADIENTS_H
#define NAIVE_GRADIENTS_H

#include "mfa_philox.h"
#include "mfa_rules.h"
#include "tensors.h"

typedef struct {
    double *out, *logsumexp;
    double *dquery, *dkey, *dvalue, *dbias, *dsinks; /* packed, as their operands; dbias for every head */
} naive_gradients_t;

static inline double *zeros(int64_t count) { return calloc((size_t)(count > 0 ? count : 1), sizeof(double)); }

static inline void free_gradients(naive_gradients_t *g) {
    free(g->out), free(g->logsumexp), free(g->dquery), free(g->dkey), free(g->dvalue), free(g->dbias), free(g->dsinks);
}

/* Of bottom-right aligned calls with a literal scale, an additive mask of one head or none, and sinks or none; `batch`
   is the number that the tensors' batch has for dropout. */
static inline naive_gradients_t naive_gradients_of(const mfa_attention_desc_t *desc, const mfa_tensor_t *dout,
                                                   int64_t batch) {
    const mfa_tensor_t *q = desc->query, *k = desc->key, *v = desc->value, *mask = desc->additive_mask;
    const int64_t heads = q->shape[1], nq = q->shape[2], nkv = k->shape[2], dim = q->shape[3], dv = v->shape[3];
    const int64_t group = heads / k->shape[1], offset = nkv - nq;
    const mfa_philox_key seed = mfa_rule_dropout_key(desc->dropout_seed, desc->dropout_offset);
    naive_gradients_t g = {zeros(heads * nq * dv),
                           zeros(heads * nq),
                           zeros(heads * nq * dim),
                           zeros(heads / group * nkv * dim),
                           zeros(heads / group * nkv * dv),
                           zeros(heads * nq * nkv),
                           zeros(heads)};
    double *weight = zeros(nkv), *slope = zeros(nkv), *keep = zeros(nkv), *dweight = zeros(nkv);
    for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < nq; ++i) {
            const int64_t kv = h / group;
            const int64_t right = desc->flags & MFA_ATTENTION_CAUSAL ? 0 : -1;
            const mfa_extent extent = {nq, nkv, offset, desc->window_left, right, desc->chunk};
            const int64_t begin = mfa_rule_keys_of_row(extent, i).begin, end = mfa_rule_keys_of_row(extent, i).end;
            const double sink = desc->sinks ? at3(desc->sinks, h, 0, 0) : -INFINITY;
            double most = sink, sum = 0, delta = 0;
            for (int64_t j = begin; j < end; ++j) {
                double product = 0;
                for (int64_t d = 0; d < dim; ++d)
                    product += (double)at3(q, h, i, d) * at3(k, kv, j, d);
                double score = product * desc->softmax_scale;
                slope[j] = desc->softmax_scale;
                if (desc->softcap > 0) {
                    const double bent = tanh(score / desc->softcap);
                    score = desc->softcap * bent;
                    slope[j] *= 1 - bent * bent;
                }
                weight[j] = score + (mask ? at3(mask, 0, i, j) : 0);
                most = fmax(most, weight[j]);
            }
            for (int64_t j = begin; j < end; ++j)
                sum += weight[j] = exp(weight[j] - most);
            if (sink != -INFINITY)
                sum += exp(sink - most);
            g.logsumexp[h * nq + i] = sum > 0 ? most + log(sum) : -INFINITY;
            for (int64_t j = begin; j < end; ++j) {
                const bool kept =
                    mfa_rule_dropout_bits(seed, batch, h, i, j) >= mfa_rule_dropout_threshold(desc->dropout_p);
                keep[j] = kept ? 1 / (1 - (double)desc->dropout_p) : 0;
                weight[j] /= sum;
                dweight[j] = 0;
                for (int64_t d = 0; d < dv; ++d)
                    g.out[(h * nq + i) * dv + d] += weight[j] * keep[j] * at3(v, kv, j, d);
                for (int64_t d = 0; d < dv; ++d) {
                    dweight[j] += keep[j] * at3(dout, h, i, d) * at3(v, kv, j, d);
                    g.dvalue[(kv * nkv + j) * dv + d] += weight[j] * keep[j] * at3(dout, h, i, d);
                }
                delta += weight[j] * dweight[j];
            }
            if (begin < end && sink != -INFINITY)
                g.dsinks[h] -= exp(sink - most) / sum * delta;
            for (int64_t j = begin; j < end; ++j) {
                const double dscore = weight[j] * (dweight[j] - delta);
                g.dbias[(h * nq + i) * nkv + j] = dscore;
                for (int64_t d = 0; d < dim; ++d) {
                    g.dquery[(h * nq + i) * dim + d] += dscore * slope[j] * at3(k, kv, j, d);
                    g.dkey[(kv * nkv + j) * dim + d] += dscore * slope[j] * at3(q, h, i, d);
                }
            }
        }
    free(weight), free(slope), free(keep), free(dweight);
    return g;
}

static inline naive_gradients_t naive_gradients(const mfa_attention_desc_t *desc, const mfa_tensor_t *dout) {
    return naive_gradients_of(desc, dout, 0);
}

/* Largest difference between a tensor, packed, and `expected`, relative to the largest expected number, or to 0.1 where
   that is less: what comes of few random numbers may be a small difference of them. */
static inline double relative_difference(const mfa_tensor_t *tensor, const double *expected) {
    double most = 0, size = 0.1;
    for (int64_t i = 0; i < tensor->shape[1] * tensor->shape[2] * tensor->shape[3]; ++i) {
        const double difference = fabs(load(tensor->precision, tensor->data, i) - expected[i]);
        most = difference > most || isnan(difference) ? difference : most;
        size = fmax(size, fabs(expected[i]));
    }
    return most / size;
}

#endif

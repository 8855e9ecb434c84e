/* Attention as the definition says, for packed (batch, heads, seq, dim) floats: what C tests compare with. */
#ifndef NAIVE_H
#define NAIVE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

static inline float random_float(void) { return (float)rand() / (float)RAND_MAX * 2 - 1; }

static inline float *random_floats(int64_t count) {
    float *values = malloc((size_t)(count > 0 ? count : 1) * sizeof *values);
    for (int64_t i = 0; i < count; ++i)
        values[i] = random_float();
    return values;
}

static inline void naive_attention(const float *q, const float *k, const float *v, int64_t heads, int64_t nq,
                                   int64_t nkv, int64_t dim, double scale, bool causal, float *out, float *logsumexp) {
    double *weights = malloc((size_t)(nkv > 0 ? nkv : 1) * sizeof *weights);
    for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < nq; ++i) {
            const int64_t seen = causal ? (i + 1 + nkv - nq < nkv ? i + 1 + nkv - nq : nkv) : nkv;
            double most = -INFINITY, sum = 0;
            for (int64_t j = 0; j < seen; ++j) {
                weights[j] = 0;
                for (int64_t d = 0; d < dim; ++d)
                    weights[j] += scale * q[(h * nq + i) * dim + d] * k[(h * nkv + j) * dim + d];
                most = fmax(most, weights[j]);
            }
            for (int64_t j = 0; j < seen; ++j)
                sum += weights[j] = exp(weights[j] - most);
            for (int64_t d = 0; d < dim; ++d) {
                double total = 0;
                for (int64_t j = 0; j < seen; ++j)
                    total += weights[j] * v[(h * nkv + j) * dim + d];
                out[(h * nq + i) * dim + d] = sum > 0 ? (float)(total / sum) : 0;
            }
            logsumexp[h * nq + i] = (float)(sum > 0 ? most + log(sum) : -INFINITY);
        }
    free(weights);
}

static inline double largest_difference(const float *a, const float *b, int64_t count) {
    double most = 0;
    for (int64_t i = 0; i < count; ++i)
        if (!(a[i] == b[i])) { /* equal infinities differ by nothing */
            double difference = fabs((double)a[i] - b[i]);
            most = difference > most || isnan(difference) ? difference : most;
        }
    return most;
}

#endif

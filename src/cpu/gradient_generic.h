/*
 * What the backward pass does to scores between its products: raw products of queries and keys become weights, and
 * products of dout and values become gradients of the scores, in the places of both:
 *
 *   weight = exp(score - logsumexp), times the dropout factor
 *   gradient = scale * softcap' * weight' * (dout . value - delta), where hidden 0
 *
 * weight' is the weight before dropout, and dropout's factor is in dout . value.
 */

/* One row of a block of keys; positions count from the first key. */
typedef struct {
    mfa_span seen;                   /* keys that the row sees */
    float reference, reference_rest; /* logsumexp: as it is if scores need finishing, else log2(e) times it, as a sum */
    float delta, taint;              /* taint: 0, or NaN if dout holds what is not finite */
    float *scores, *dscores;
    const float *bias, *drop_factors; /* NULL: none */
} gradient_row_t;

/* `masked` if lanes of the vector at j may lie outside the row's keys. */
INLINE void gradient_step(const mfai_cpu_backward_job_t *job, const bool finish_scores, const bool masked,
                          const gradient_row_t *row, int64_t j, vf *weight, vf *gradient) {
    const mfai_problem_t *p = job->problem;
    const vf hidden = vf_set1(-INFINITY);
    vf chain = vf_set1(job->bias_pass ? 1 : p->softmax_scale), score = vf_load(row->scores + j);
    if (finish_scores) {
        score = vf_mul(score, vf_set1(p->softmax_scale));
        if (p->softcap > 0) {
            const vf cap = vf_set1(p->softcap), bent = vf_tanh(vf_div(score, cap));
            score = vf_mul(bent, cap);
            if (!job->bias_pass) /* tanh' = 1 - tanh^2, which cancels less as a product */
                chain = vf_mul(chain, vf_mul(vf_sub(vf_set1(1), bent), vf_add(vf_set1(1), bent)));
        }
        if (row->bias) {
            const vf added = vf_load(row->bias + j);
            score = vf_select_equal(added, hidden, hidden, vf_sub(vf_add(score, added), vf_set1(row->reference)));
        } else {
            score = vf_sub(score, vf_set1(row->reference));
        }
    } else {
        /* Factor and reference cancel, so that their rounding would show in the weight if they were single floats. */
        const vf rest = vf_fma(score, vf_set1(job->factor_rest), vf_set1(-row->reference_rest));
        score = vf_fused(score, vf_set1(job->factor), vf_set1(-row->reference));
        score = vf_select_equal(score, hidden, hidden, vf_add(score, rest)); /* rest may be the opposite infinity */
        if (row->bias)
            score = vf_select_equal(vf_load(row->bias + j), hidden, hidden, score);
    }
    if (masked)
        score = vf_hide_outside(score, row->seen.begin - j, row->seen.end - j);
    if (finish_scores)
        score = vf_fused(score, vf_set1(MFA_LOG2_E), vf_mul(score, vf_set1(MFA_LOG2_E_REST)));
    const vf plain = vf_exp2(score);
    vf slope = vf_load(row->dscores + j);
    *weight = vf_add(plain, vf_set1(row->taint));
    if (row->drop_factors) {
        const vf drop_factors = vf_load(row->drop_factors + j);
        *weight = vf_mul(*weight, drop_factors);
        slope = vf_mul(slope, drop_factors);
    }
    *gradient = vf_mul(vf_mul(plain, chain), vf_sub(slope, vf_set1(row->delta)));
    /* Whatever a hidden pair holds, and whatever meets a weight of 0. */
    *weight = vf_select_equal(score, hidden, vf_zero(), *weight);
    *gradient = vf_select_equal(score, hidden, vf_zero(), *gradient);
}

/* Rows whose words share memory, one or two, of which `count` are there. Writes weights as words over the first row's
   scores, gradients as words over its dscores and, where words are pairs, each row's gradients as words along the keys
   to `along`. `keys` holds everything that the rows see; what lies outside, in whole vectors of `part`, is set to 0. */
INLINE void gradient_rows(const mfai_cpu_backward_job_t *job, const bool finish_scores, gradient_row_t *rows, int count,
                          mfa_span keys, mfa_span part, lane32 *along, int64_t along_stride) {
    float *weights = rows[0].scores, *gradients = rows[0].dscores;
    const int64_t first = keys.begin / VL * VL, last = (keys.end + VL - 1) / VL * VL;
    mfa_span inner = keys;
    for (int r = 0; r < count; ++r)
        inner = mfa_span_cut(inner, rows[r].seen);
    for (int64_t j = part.begin; j < part.end; j += VL) {
        vf weight[WORD_DEPTH], gradient[WORD_DEPTH];
        if (j < first || j >= last) {
#pragma GCC unroll 2
            for (int r = 0; r < WORD_DEPTH; ++r)
                weight[r] = gradient[r] = vf_zero();
        } else {
#pragma GCC unroll 2
            for (int r = 0; r < WORD_DEPTH; ++r) {
                if (r >= count)
                    weight[r] = gradient[r] = vf_zero();
                else if (j >= inner.begin && j + VL <= inner.end)
                    gradient_step(job, finish_scores, false, &rows[r], j, &weight[r], &gradient[r]);
                else
                    gradient_step(job, finish_scores, true, &rows[r], j, &weight[r], &gradient[r]);
            }
        }
#if WORD_DEPTH == 1
        (void)along, (void)along_stride;
        vf_store(weights + j, weight[0]);
        vf_store(gradients + j, gradient[0]);
#else
        vf_store(weights + j, PAIR_ROWS(weight[0], weight[1]));
        vf_store(gradients + j, PAIR_ROWS(gradient[0], gradient[1]));
        STORE_WEIGHTS(along, j, gradient[0]);
        STORE_WEIGHTS(along + along_stride, j, gradient[1]);
#endif
    }
}

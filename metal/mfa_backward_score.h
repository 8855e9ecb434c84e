/*
 * What happens between the products of a tile: scores become weights, and gradients of weights become gradients of scores.
 *
 *   weight = exp(score - logsumexp), times the dropout factor
 *   gradient = scale * softcap' * weight' * (dout . value - delta), 0 where hidden
 *
 * weight' is the weight before dropout, whose factor is in dout . value.
 */
#ifndef MFA_BACKWARD_SCORE_H
#define MFA_BACKWARD_SCORE_H

#include "mfa_dropout.h"
#include "mfa_score.h"

#define MFA_LOG2_E_REST 1.92596303e-8f /* what MFA_LOG2_E lost as a float */

/* A number times log2(e) as a sum. Scores and logsumexp cancel, so that the rounding of single floats would show in the weight. */
struct mfa_exponent {
    float value, rest;
};

inline mfa_exponent mfa_exponent_of(float x) {
    mfa_exponent exponent;
    exponent.value = x * MFA_LOG2_E;
    exponent.rest = isinf(exponent.value) ? 0.0f : fma(x, MFA_LOG2_E_REST, fma(x, MFA_LOG2_E, -exponent.value));
    return exponent;
}

/* What a row knows about each of its weights. */
struct mfa_row_terms {
    mfa_exponent reference; /* logsumexp, as it is if scores are natural; +inf for a row that sees nothing */
    float delta, taint;
};

inline mfa_row_terms mfa_row_terms_of(constant mfa_metal_params &p, const device float *logsumexp,
                                      const device mfa_metal_delta *deltas, mfa_index batch, mfa_index head,
                                      mfa_index row) {
    mfa_row_terms terms;
    terms.reference.value = INFINITY;
    terms.reference.rest = 0;
    terms.delta = terms.taint = 0;
    if (row < p.query_count) {
        float reference = logsumexp[mfa_place(p.logsumexp, batch, head, row)];
        reference = reference == -INFINITY ? INFINITY : reference;
        if (scores_are_natural)
            terms.reference.value = reference;
        else
            terms.reference = mfa_exponent_of(reference);
        const mfa_index at = (batch * p.heads + head) * p.query_count + row;
        terms.delta = deltas[at].delta;
        terms.taint = deltas[at].taint;
    }
    return terms;
}

/* What the rows of one head share. */
struct mfa_head_terms {
    const device uchar *bool_mask, *additive_mask;
    mfa_index batch, head;
    mfa_exponent factor; /* softmax_scale */
    float slope;         /* of ALiBi */
    mfa_dropout dropout;
};

inline mfa_head_terms mfa_head_terms_of(constant mfa_metal_params &p, const device uchar *bool_mask,
                                        const device uchar *additive_mask, const device float *alibi_slopes,
                                        mfa_index batch, mfa_index head) {
    mfa_head_terms terms;
    if (has_bool_mask)
        terms.bool_mask = bool_mask;
    if (has_additive_mask)
        terms.additive_mask = additive_mask;
    terms.batch = batch;
    terms.head = head;
    terms.factor = mfa_exponent_of(p.softmax_scale);
    terms.slope = has_alibi ? alibi_slopes[mfa_place(p.alibi_slopes, batch, head, 0)] : 0.0f;
    if (has_dropout)
        terms.dropout = mfa_dropout_of(p, batch, head);
    return terms;
}

/* What a pair of a row and a key has beside its products. */
struct mfa_pair_terms {
    bool visible;
    float bias, keep; /* keep: the factor of dropout */
};

/* Whether each row of a tile sees each of its keys, without a look at masks. */
inline bool mfa_tile_is_whole(constant mfa_metal_params &p, mfa_index first_row, int rows, mfa_index first_key,
                              int keys) {
    const mfa_index last_row = first_row + rows - 1;
    return !has_mask && last_row < p.query_count &&
           mfa_rule_key_begin(last_row, p.offset, p.window_left, p.key_count) <= first_key &&
           mfa_rule_key_end(first_row, p.offset, p.window_right, p.key_count) >= first_key + keys;
}

/* Visibility and bias; nothing is read of a mask where bounds hide the pair. WHOLE: they hide none of the tile. */
template <bool WHOLE>
inline mfa_pair_terms mfa_pair_terms_of(constant mfa_metal_params &p, mfa_head_terms head, mfa_index row,
                                        mfa_index key) {
    mfa_pair_terms pair;
    pair.visible =
        WHOLE || (row < p.query_count && key >= mfa_rule_key_begin(row, p.offset, p.window_left, p.key_count) &&
                  key < mfa_rule_key_end(row, p.offset, p.window_right, p.key_count));
    pair.bias = 0;
    pair.keep = 1;
    if (has_mask && pair.visible) {
        pair.bias =
            mfa_mask_bias(mfa_mask_row_of(p, head.bool_mask, head.additive_mask, head.batch, head.head, row), key);
        pair.visible = pair.bias != -INFINITY;
    }
    if (has_alibi)
        pair.bias += mfa_rule_alibi(head.slope, row, p.offset, key);
    return pair;
}

struct mfa_score_gradient {
    float weight, gradient;
};

/* OF_BIAS: the gradient of what is added to the score, instead of that of the product of query and key. */
template <bool OF_BIAS>
inline mfa_score_gradient mfa_score_gradient_of(constant mfa_metal_params &p, mfa_exponent factor, float product,
                                                float dweight, mfa_row_terms row, mfa_pair_terms pair) {
    float chain = OF_BIAS ? 1.0f : p.softmax_scale, score;
    if (scores_are_natural) {
        score = product * p.softmax_scale;
        if (has_softcap) {
            const float bent = precise::tanh(score / p.softcap);
            score = mfa_bend(score, p.softcap, bent);
            if (!OF_BIAS)
                chain *= (1.0f - bent) * (1.0f + bent); /* cancels less than 1 - bent * bent */
        }
        score = score + pair.bias - row.reference.value;
        score = fma(score, MFA_LOG2_E, score * MFA_LOG2_E_REST);
    } else {
        const float rest = fma(product, factor.rest, -row.reference.rest);
        score = fma(product, factor.value, -row.reference.value);
        score = score == -INFINITY ? score : score + rest; /* which may be the opposite infinity */
    }
    mfa_score_gradient result;
    result.weight = result.gradient = 0;
    if (pair.visible && score != -INFINITY) {
        const float weight = fast::exp2(score);
        result.gradient = weight * chain * (dweight * pair.keep - row.delta);
        result.weight = (weight + row.taint) * pair.keep;
    }
    return result;
}

#endif

/*
 * What happens between the products of a tile: scores become weights, and gradients of weights become gradients of
 * scores.
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

/* A number times log2(e) as a sum. Scores and logsumexp cancel, so that the rounding of single floats would show in the
   weight. */
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
                                      const device mfa_metal_delta *deltas, mfa_sequence sequence, mfa_index head,
                                      mfa_index row) {
    mfa_row_terms terms;
    terms.reference.value = INFINITY;
    terms.reference.rest = 0;
    terms.delta = terms.taint = 0;
    if (row < sequence.extent.query_count) {
        float reference = logsumexp[mfa_place(p.logsumexp, sequence.queries.batch, head, sequence.queries.row + row)];
        reference = reference == -INFINITY ? INFINITY : reference;
        if (scores_are_natural)
            terms.reference.value = reference;
        else
            terms.reference = mfa_exponent_of(reference);
        const mfa_index place = mfa_stored_row(p, sequence, head, row);
        terms.delta = deltas[place].delta;
        terms.taint = deltas[place].taint;
    }
    return terms;
}

/* What the rows of one head share. */
struct mfa_head_terms {
    mfa_biases biases;
    mfa_index batch, head;
    mfa_extent extent;
    mfa_blocks blocks;
    mfa_scoring scoring;
    mfa_exponent factor; /* softmax_scale */
    mfa_dropout dropout;
};

inline mfa_head_terms mfa_head_terms_of(constant mfa_metal_params &p, mfa_biases biases, mfa_sequence sequence,
                                        mfa_index head) {
    mfa_head_terms terms;
    terms.biases = biases;
    terms.batch = sequence.number;
    terms.head = head;
    terms.extent = sequence.extent;
    terms.blocks = mfa_blocks_of(p, biases, sequence.number, head);
    terms.scoring = mfa_scoring_of(p, biases, sequence, head);
    terms.factor = mfa_exponent_of(p.softmax_scale);
    if (has_dropout)
        terms.dropout = mfa_dropout_of(p, sequence.number, head);
    return terms;
}

/* What a pair of a row and a key has beside its products. */
struct mfa_pair_terms {
    bool visible;
    float bias, drop_factor;
};

/* Whether nothing hides any pair of a tile. */
inline bool mfa_scores_are_whole(mfa_head_terms head, mfa_span rows, mfa_span keys) {
    return !(has_blocks ? has_additive_mask : has_mask) && mfa_tile_is_whole(head.extent, head.blocks, rows, keys);
}

/* Visibility and bias; nothing is read of a mask where bounds or blocks hide the pair. WHOLE: nothing hides any of the
   tile. `counts` and `is_full`: what blocks and bounds say, if there are blocks. */
template <bool WHOLE>
inline mfa_pair_terms mfa_pair_terms_of(constant mfa_metal_params &p, mfa_head_terms head, mfa_index row, mfa_index key,
                                        bool counts, bool is_full) {
    mfa_pair_terms pair;
    float mask_bias = 0;
    pair.visible = WHOLE || (has_blocks ? counts : mfa_pair_is_visible(head.extent, row, key));
    pair.drop_factor = 1;
    if (has_mask && !WHOLE && pair.visible) {
        mask_bias =
            mfa_mask_bias(mfa_mask_row_of(p, head.biases, head.batch, head.head, row), key, has_blocks && is_full);
        pair.visible = mask_bias != -INFINITY;
    }
    pair.bias = mfa_bias(head.scoring, mask_bias, row, key);
    return pair;
}

struct mfa_score_gradient {
    float weight, gradient;
};

/* OF_BIAS: the gradient of what is added to the score, instead of that of the product of query and key. */
template <bool OF_BIAS>
inline mfa_score_gradient mfa_score_gradient_of(float softmax_scale, mfa_head_terms head, float product, float dweight,
                                                mfa_row_terms row, mfa_pair_terms pair) {
    float chain = OF_BIAS ? 1.0f : softmax_scale, score;
    if (scores_are_natural) {
        float bent;
        score = mfa_score(head.scoring, product, pair.bias, bent) - row.reference.value;
        if (has_softcap && !OF_BIAS)
            chain *= (1.0f - bent) * (1.0f + bent); /* cancels less than 1 - bent * bent */
        score = fma(score, MFA_LOG2_E, score * MFA_LOG2_E_REST);
    } else {
        const float rest = fma(product, head.factor.rest, -row.reference.rest);
        score = fma(product, head.factor.value, -row.reference.value);
        score = score == -INFINITY ? score : score + rest; /* which may be the opposite infinity */
    }
    mfa_score_gradient result;
    result.weight = result.gradient = 0;
    if (pair.visible && score != -INFINITY) {
        const float weight = fast::exp2(score);
        result.gradient = weight * chain * (dweight * pair.drop_factor - row.delta);
        result.weight = (weight + row.taint) * pair.drop_factor;
    }
    return result;
}

#endif

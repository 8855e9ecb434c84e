/*
 * From the product of a query and a key to the key's weight. Scores are in units that make the common case cheap:
 * base-2 logarithms if there is nothing but a scale, else natural ones, in which a bias as large as a float can be
 * stays finite.
 */
#ifndef MFA_SCORE_H
#define MFA_SCORE_H

#include "mfa_walk.h"

constant bool scores_are_natural =
    has_mask || has_alibi || has_softcap || has_huge_scale || has_query_scale || has_key_scale;

inline float mfa_to_natural(float score) { return scores_are_natural ? score : score * MFA_LN_2; }
inline float mfa_from_natural(float score) { return scores_are_natural ? score : score * MFA_LOG2_E; }

/* What the weights of a row are relative to, so that -inf - reference is not NaN where there is no score yet. */
inline float mfa_reference(float most) { return most == -INFINITY ? 0.0f : most; }

/* exp(score - reference) */
inline float mfa_weight(float score, float reference) {
    const float distance = score - reference;
    return fast::exp2(scores_are_natural ? distance * MFA_LOG2_E : distance);
}

/* What the rows of one head share. */
struct mfa_scoring {
    float scale, softcap, slope;
    mfa_index offset;
};

inline mfa_scoring mfa_scoring_of(constant mfa_metal_params &p, mfa_biases biases, mfa_sequence sequence,
                                  mfa_index head) {
    mfa_scoring scoring;
    scoring.scale = mfa_from_natural(p.softmax_scale);
    scoring.softcap = has_softcap ? p.softcap : 0.0f;
    scoring.slope = has_alibi ? biases.alibi_slopes[mfa_place(p.alibi_slopes, sequence.number, head, 0)] : 0.0f;
    scoring.offset = sequence.extent.offset;
    return scoring;
}

/* The factor of a batch and key/value head. */
inline float mfa_factor(const device float *factors, constant mfa_metal_strides &strides, mfa_index batch,
                        mfa_index kv_head) {
    return factors[mfa_place(strides, batch, kv_head, 0)];
}

/* Of stored queries and keys, which have factors. */
inline mfa_scoring mfa_scaled(constant mfa_metal_params &p, mfa_scoring scoring, mfa_queries queries, mfa_index batch,
                              mfa_index kv_head) {
    if (has_query_scale || has_key_scale)
        scoring.scale = mfa_rule_scale(
            scoring.scale, has_query_scale ? mfa_factor(queries.query_scale, p.query_scale, batch, kv_head) : 1.0f,
            has_key_scale ? mfa_factor(queries.key_scale, p.key_scale, batch, kv_head) : 1.0f);
    return scoring;
}

/* softcap * tanh(score / softcap); `bent` is that tanh. Near 0 it is the score, whose quotient may be too small for a
   GPU. */
inline float mfa_bend(float score, float softcap, float bent) {
    return fabs(score) < softcap * (1.0f / 8192) ? score : softcap * bent;
}

/* What is added to a score. `mask_bias` is what mfa_mask_bias said. */
inline float mfa_bias(mfa_scoring scoring, float mask_bias, mfa_index row, mfa_index key) {
    float bias = has_mask ? mask_bias : 0.0f;
    if (has_alibi)
        bias += mfa_rule_alibi(scoring.slope, row, scoring.offset, key);
    return bias;
}

/* softcap(scale q.k) + bias. `bent` becomes the tanh of a softcap, if there is one. */
inline float mfa_score(mfa_scoring scoring, float product, float bias, thread float &bent) {
    float score = product * scoring.scale;
    if (has_softcap) {
        bent = precise::tanh(score / scoring.softcap);
        score = mfa_bend(score, scoring.softcap, bent);
    }
    return has_mask || has_alibi ? score + bias : score;
}

/* One row of the masks, read where it lies. */
struct mfa_mask_row {
    const device uchar *bool_mask, *additive_mask; /* of key 0 */
    mfa_index bool_stride, additive_stride;        /* from key to key; additive_stride counts elements */
};

inline int mfa_mask_size() { return additive_mask_type == MFA_MASK_FP32 ? 4 : 2; }

inline mfa_mask_row mfa_mask_row_of(constant mfa_metal_params &p, mfa_biases biases, mfa_index batch, mfa_index head,
                                    mfa_index row) {
    mfa_mask_row mask;
    if (has_bool_mask) {
        mask.bool_mask = biases.bool_mask + mfa_place(p.bool_mask, batch, head, row);
        mask.bool_stride = p.bool_mask.column;
    }
    if (has_additive_mask) {
        mask.additive_mask = biases.additive_mask + mfa_place(p.additive_mask, batch, head, row) * mfa_mask_size();
        mask.additive_stride = p.additive_mask.column;
    }
    return mask;
}

/* What the masks add to the score of a key; -inf hides it. In a full block, bool_mask hides nothing. */
inline float mfa_mask_bias(mfa_mask_row mask, mfa_index key, bool is_full) {
    float bias = 0;
    if (has_additive_mask) {
        const mfa_index place = key * mask.additive_stride;
        if (additive_mask_type == MFA_MASK_FP16)
            bias = float(((const device half *)mask.additive_mask)[place]);
        else if (additive_mask_type == MFA_MASK_BF16)
            bias = float(((const device bfloat *)mask.additive_mask)[place]);
        else
            bias = ((const device float *)mask.additive_mask)[place];
    }
    if (has_bool_mask && !is_full)
        bias = mask.bool_mask[key * mask.bool_stride] ? bias : -INFINITY;
    return bias;
}

/* What a row's sums become at its end. */
struct mfa_row_end {
    float factor, logsumexp; /* the sums of values times factor are the output, in which dropout's factor is */
};

/* `most` is the largest score, in natural units, and `sum` that of the weights relative to it. `sink`: -inf for none.
   `value_factor`: that of stored values */
inline mfa_row_end mfa_finish_row(constant mfa_metal_params &p, float most, float sum, float sink, float value_factor) {
    mfa_row_end end;
    end.factor = 1;
    if (has_sinks) {
        const float most_of_keys = most;
        most = sink > most ? sink : most;
        if (most != -INFINITY || isnan(sink)) {
            end.factor = precise::exp(most_of_keys - most);
            sum = sum * end.factor + precise::exp(sink - most);
        }
    }
    end.factor = sum == 0 ? 0.0f : end.factor / sum * p.keep_factor * value_factor;
    end.logsumexp = sum == 0 ? -INFINITY : most + precise::log(sum);
    return end;
}

#endif

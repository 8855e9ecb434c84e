/*
 * Online softmax (Milakov and Gimelshein, 2018) over rows of scores that lie in fragments: each of the four lanes of a
 * row holds two neighbouring keys of each fragment, those from first_key + 8 f + column on.
 */
#ifndef MFA_SOFTMAX_H
#define MFA_SOFTMAX_H

#include "mfa_dropout.h"
#include "mfa_fragment.h"
#include "mfa_score.h"

/* A row of the output, and the keys that bounds let it see. */
struct mfa_softmax_row {
    mfa_index row;
    mfa_span keys;
    float most, sum; /* the largest score so far; this lane's weights so far, relative to it */
};

inline mfa_softmax_row mfa_softmax_row_of(mfa_index row, mfa_span keys) {
    mfa_softmax_row state;
    state.row = row;
    state.keys = keys;
    state.most = -INFINITY;
    state.sum = 0;
    return state;
}

/* Reads the masks; false if this lane's keys are all hidden. */
template <int FRAGMENTS>
inline bool mfa_read_bias(mfa_mask_row mask, mfa_lane_pairs pairs, mfa_softmax_row state, mfa_index first_key,
                          int column, thread float2 (&bias)[FRAGMENTS]) {
    bool any = false;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            const mfa_index key = first_key + 8 * f + column + i;
            const bool visible =
                key >= state.keys.begin && key < state.keys.end && (!has_blocks || mfa_lane_bit(pairs.visible, f, i));
            bias[f][i] = visible ? mfa_mask_bias(mask, key, has_blocks && mfa_lane_bit(pairs.full, f, i)) : -INFINITY;
            any = any || bias[f][i] != -INFINITY;
        }
    return any;
}

/* Products become scores, with what mfa_read_bias read. `whole`: the row sees the whole tile, but for what blocks and
   masks hide. */
template <int FRAGMENTS>
inline void mfa_score_row(mfa_scoring scoring, mfa_lane_pairs pairs, mfa_softmax_row state, bool whole,
                          mfa_index first_key, int column, thread float2 (&mask_bias)[FRAGMENTS],
                          thread float2 (&scores)[FRAGMENTS]) {
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            const mfa_index key = first_key + 8 * f + column + i;
            float bent;
            const float score = mfa_score(scoring, scores[f][i],
                                          mfa_bias(scoring, has_mask ? mask_bias[f][i] : 0.0f, state.row, key), bent);
            const bool visible = (whole || (key >= state.keys.begin && key < state.keys.end)) &&
                                 (!has_blocks || mfa_lane_bit(pairs.visible, f, i));
            scores[f][i] = visible && !(has_mask && mask_bias[f][i] == -INFINITY) ? score : -INFINITY;
        }
}

/* Scores become weights. Returns what earlier sums of values are to be multiplied by. */
template <int FRAGMENTS> inline float mfa_weigh_row(thread mfa_softmax_row &state, thread float2 (&scores)[FRAGMENTS]) {
    float most = state.most;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        most = max(most, max(scores[f][0], scores[f][1]));
    most = mfa_row_max(most);
    const float reference = mfa_reference(most), correction = mfa_weight(state.most, reference);
    state.most = most;
    float sum = 0;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            scores[f][i] = mfa_weight(scores[f][i], reference);
            sum += scores[f][i];
        }
    state.sum = fma(state.sum, correction, sum);
    return correction;
}

/* After the row's sum, which ignores dropout, is taken. Dropout's factor, with which weights could leave the range of
   half, comes in at the row's end. */
template <int FRAGMENTS>
inline void mfa_drop_row(mfa_dropout dropout, mfa_index row, mfa_index first_key, int column,
                         thread float2 (&weights)[FRAGMENTS]) {
    float2 factors[FRAGMENTS];
    dropout.factor = 1;
    mfa_dropout_factors(dropout, row, first_key, column, factors);
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        weights[f] *= factors[f];
}

/* A bit for each of the lane's keys: those that scored -inf, hidden ones among them, whose values take part in nothing.
   */
template <int FRAGMENTS> inline uint mfa_hidden_keys(thread float2 (&scores)[FRAGMENTS]) {
    uint hidden = 0;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i)
            hidden |= scores[f][i] == -INFINITY ? 1u << (2 * f + i) : 0u;
    return hidden;
}

/*
 * Adds the non-finite ones of the values first_key .. first_key + 8 FRAGMENTS - 1, as far as `keys` has them, weighted,
 * to the sums of rows that see them: in a product of matrices, weights of 0 would spread them to other rows.
 * SPAN: fragments whose columns interleave (decode.metal), or 1. `hidden`: see mfa_hidden_keys
 */
template <int SPAN, int FRAGMENTS, int SUMS>
inline void mfa_add_not_finite(mfa_rows<MFA_V> values, mfa_index first_key, mfa_span keys, int first_column, uint lane,
                               uint hidden, thread float2 (&weights)[FRAGMENTS], thread float2 (&sums)[SUMS]) {
    const int row = mfa_fragment_row(lane), column = first_column + SPAN * mfa_fragment_column(lane);
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int k = 0; k < 8; ++k) {
            const mfa_index key = first_key + 8 * f + k;
            if (key < keys.begin || key >= keys.end)
                continue;
            const ushort from = mfa_fragment_lane(row, k);
            const float even = simd_shuffle(weights[f][0], from), odd = simd_shuffle(weights[f][1], from);
            const float weight = (k & 1) != 0 ? odd : even;
            const bool is_seen = (simd_shuffle(hidden, from) >> (2 * f + (k & 1)) & 1) == 0;
#pragma unroll
            for (int n = 0; n < SUMS; ++n) {
                const vec<MFA_T, 2> pair =
                    vec<MFA_T, 2>(mfa_read<2>(values, key, column + 8 * SPAN * (n / SPAN) + 2 * (n % SPAN)));
                for (int i = 0; i < 2; ++i)
                    if (is_seen && !isfinite(float(pair[i])))
                        sums[n][i] += weight * float(pair[i]);
            }
        }
}

/* sum + weights . values */
inline float2 mfa_add_weighted(float2 weights, vec<MFA_T, 2> values, float2 sum) {
    return exact_weights ? mfa_multiply_add<float, MFA_T>(weights, values, sum)
                         : mfa_multiply_add<MFA_T, MFA_T>(mfa_round<MFA_T>(weights), values, sum);
}

#endif

/*
 * Online softmax (Milakov and Gimelshein, 2018) over rows of scores that lie in fragments: each of the four lanes of a row holds
 * two neighbouring keys of each fragment, those from first_key + 8 f + column on.
 */
#ifndef MFA_SOFTMAX_H
#define MFA_SOFTMAX_H

#include "mfa_dropout.h"
#include "mfa_fragment.h"
#include "mfa_score.h"

/* A row of the output, and the keys begin .. end - 1 that it may see. */
struct mfa_softmax_row {
    mfa_index row, begin, end;
    float most, sum; /* the largest score so far; this lane's weights so far, relative to it */
};

inline mfa_softmax_row mfa_softmax_row_of(mfa_index row, mfa_index begin, mfa_index end) {
    mfa_softmax_row state;
    state.row = row;
    state.begin = begin;
    state.end = end;
    state.most = -INFINITY;
    state.sum = 0;
    return state;
}

/* Reads the masks; false if this lane's keys are all hidden. */
template <int FRAGMENTS>
inline bool mfa_read_bias(mfa_mask_row mask, mfa_softmax_row state, mfa_index first_key, int column,
                          thread float2 (&bias)[FRAGMENTS]) {
    bool any = false;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            const mfa_index key = first_key + 8 * f + column + i;
            bias[f][i] = key >= state.begin && key < state.end ? mfa_mask_bias(mask, key) : -INFINITY;
            any = any || bias[f][i] != -INFINITY;
        }
    return any;
}

/* Products become scores. `whole`: the row sees the whole tile, but for what masks hide. */
template <int FRAGMENTS>
inline void mfa_score_row(mfa_scoring scoring, mfa_softmax_row state, bool whole, mfa_index first_key, int column,
                          thread float2 (&bias)[FRAGMENTS], thread float2 (&scores)[FRAGMENTS]) {
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            const mfa_index key = first_key + 8 * f + column + i;
            const float score = mfa_score(scoring, scores[f][i], has_mask ? bias[f][i] : 0.0f, state.row, key);
            scores[f][i] = whole || (key >= state.begin && key < state.end) ? score : -INFINITY;
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
    state.sum *= correction;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            scores[f][i] = mfa_weight(scores[f][i], reference);
            state.sum += scores[f][i];
        }
    return correction;
}

/* After the row's sum, which ignores dropout, is taken. */
template <int FRAGMENTS>
inline void mfa_drop_row(mfa_dropout dropout, mfa_index row, mfa_index first_key, int column,
                         thread float2 (&weights)[FRAGMENTS]) {
    float2 factors[FRAGMENTS];
    mfa_dropout_factors(dropout, row, first_key, column, factors);
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        weights[f] *= factors[f];
}

/* sum + weights . values */
inline float2 mfa_add_weighted(float2 weights, vec<MFA_T, 2> values, float2 sum) {
    return exact_weights ? mfa_multiply_add<float, MFA_T>(weights, values, sum)
                         : mfa_multiply_add<MFA_T, MFA_T>(mfa_round<MFA_T>(weights), values, sum);
}

#endif

/* What the kernels that own query rows share: dQ and dBias. */
#ifndef MFA_BACKWARD_QUERIES_H
#define MFA_BACKWARD_QUERIES_H

#include "mfa_backward_score.h"
#include "mfa_backward_tile.h"

#define THREADS (32 * MFA_SIMDGROUPS)

enum {
    KEY_MATRICES = MFA_BK / 8,
    STAGED_KEYS = MFA_BK * mfa_lead<MFA_T>(MFA_BD) / MFA_VECTOR,
    STAGED_VALUES = MFA_BK * mfa_lead<MFA_T>(MFA_DV) / MFA_VECTOR
};

static_assert(MFA_BQ == 8 * MFA_SIMDGROUPS, "a simdgroup owns 8 rows");
static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0 && MFA_BK % 8 == 0, "matrices are 8 wide");
static_assert(!MFA_RESIDENT || MFA_BD == MFA_D, "registers are not indexed at run time");

typedef mfa_owned_rows<MFA_T, MFA_T, MFA_HEAD_DEPTH> mfa_owned_queries;
typedef mfa_owned_rows<mfa_dout_type, MFA_DO, MFA_VALUE_DEPTH> mfa_owned_douts;
typedef mfa_visited_rows<MFA_T, MFA_K, MFA_T, MFA_V> mfa_visited_keys;
typedef mfa_matrices<float, KEY_MATRICES> mfa_key_products;

/* Products of queries and keys become gradients of scores. `dweights` are products of dout and values. */
template <bool OF_BIAS, bool WHOLE>
inline void mfa_differentiate_as(constant mfa_metal_params &p, mfa_head_terms head, mfa_row_terms terms, mfa_index row,
                                 mfa_index first_key, int column, thread mfa_key_products &products,
                                 thread mfa_key_products &dweights) {
    mfa_lane_pairs pairs = mfa_whole_pairs();
    if (has_blocks && !WHOLE)
        pairs = mfa_lane_pairs_of<MFA_BK, false>(
            head.blocks, row, first_key, mfa_rule_keys_some_see(head.extent, mfa_span_of(row, row + 1)), column);
    float2 factors[KEY_MATRICES];
    if (has_dropout)
        mfa_dropout_factors<KEY_MATRICES>(head.dropout, row, first_key, column, factors);
#pragma clang loop unroll(full)
    for (int j = 0; j < KEY_MATRICES; ++j)
#pragma clang loop unroll(full)
        for (int i = 0; i < 2; ++i) {
            mfa_pair_terms pair =
                mfa_pair_terms_of<WHOLE>(p, head, row, first_key + j * 8 + column + i,
                                         mfa_lane_bit(pairs.visible, j, i), mfa_lane_bit(pairs.full, j, i));
            if (has_dropout)
                pair.drop_factor = factors[j][i];
            products.m[j].thread_elements()[i] =
                mfa_score_gradient_of<OF_BIAS>(p.softmax_scale, head, products.m[j].thread_elements()[i],
                                               dweights.m[j].thread_elements()[i], terms, pair)
                    .gradient;
        }
}

/* Does so for the lane's row of the simdgroup's 8 from first_row on. */
template <bool OF_BIAS>
inline void mfa_differentiate(constant mfa_metal_params &p, mfa_head_terms head, mfa_row_terms terms,
                              mfa_index first_row, mfa_index first_key, uint lane, thread mfa_key_products &products,
                              thread mfa_key_products &dweights) {
    const mfa_index row = first_row + mfa_fragment_row(lane);
    const int column = mfa_fragment_column(lane);
    if (mfa_scores_are_whole(head, mfa_span_of(first_row, first_row + 8), mfa_span_of(first_key, first_key + MFA_BK)))
        mfa_differentiate_as<OF_BIAS, true>(p, head, terms, row, first_key, column, products, dweights);
    else
        mfa_differentiate_as<OF_BIAS, false>(p, head, terms, row, first_key, column, products, dweights);
}

#endif

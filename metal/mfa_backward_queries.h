/* What the kernels that own query rows share: dQ and dBias. */
#ifndef MFA_BACKWARD_QUERIES_H
#define MFA_BACKWARD_QUERIES_H

#include "mfa_backward_score.h"
#include "mfa_backward_tile.h"

#define THREADS (32 * MFA_SIMDGROUPS)

enum {
    KEY_MATRICES = MFA_BK / 8,
    STAGED_KEYS = MFA_BK * mfa_backward_lead<MFA_T>(MFA_BD) / MFA_VECTOR,
    STAGED_VALUES = MFA_BK * mfa_backward_lead<MFA_T>(MFA_DV) / MFA_VECTOR
};

static_assert(MFA_BQ == 8 * MFA_SIMDGROUPS, "a simdgroup owns 8 rows");
static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0 && MFA_BK % 8 == 0, "matrices are 8 wide");
static_assert(!MFA_KEEP_QUERY || MFA_BD == MFA_D, "registers are not indexed at run time");

typedef mfa_owned_rows<MFA_T, MFA_T, MFA_HEAD_DEPTH> mfa_owned_queries;
typedef mfa_owned_rows<mfa_dout_type, MFA_DO, MFA_VALUE_DEPTH> mfa_owned_douts;
typedef mfa_visited_rows<MFA_T, MFA_T, MFA_T, MFA_T> mfa_visited_keys;
typedef mfa_matrices<float, KEY_MATRICES> mfa_key_products;

/* The keys that a simdgroup's rows see, as far as causal and window bounds tell. */
struct mfa_key_span {
    mfa_index begin, end;
};

inline mfa_key_span mfa_keys_seen_by(constant mfa_metal_params &p, mfa_index first_row, int rows) {
    mfa_key_span span;
    const mfa_index last_row = min(first_row + rows, p.query_count) - 1;
    span.begin = mfa_rule_key_begin(first_row, p.offset, p.window_left, p.key_count);
    span.end = last_row < first_row ? 0 : mfa_rule_key_end(last_row, p.offset, p.window_right, p.key_count);
    return span;
}

/* Products of queries and keys become gradients of scores. `dweights` are products of dout and values. */
template <bool OF_BIAS, bool WHOLE>
inline void mfa_differentiate_as(constant mfa_metal_params &p, mfa_head_terms head, mfa_row_terms terms, mfa_index row,
                                 mfa_index first_key, int column, thread mfa_key_products &products,
                                 thread mfa_key_products &dweights) {
    float2 factors[KEY_MATRICES];
    if (has_dropout)
        mfa_dropout_factors<KEY_MATRICES>(head.dropout, row, first_key, column, factors);
#pragma clang loop unroll(full)
    for (int j = 0; j < KEY_MATRICES; ++j)
#pragma clang loop unroll(full)
        for (int i = 0; i < 2; ++i) {
            mfa_pair_terms pair = mfa_pair_terms_of<WHOLE>(p, head, row, first_key + j * 8 + column + i);
            if (has_dropout)
                pair.keep = factors[j][i];
            products.at[j].thread_elements()[i] =
                mfa_score_gradient_of<OF_BIAS>(p, head.factor, products.at[j].thread_elements()[i],
                                               dweights.at[j].thread_elements()[i], terms, pair)
                    .gradient;
        }
}

/* As above, for the lane's row of the simdgroup's 8 from first_row on. */
template <bool OF_BIAS>
inline void mfa_differentiate(constant mfa_metal_params &p, mfa_head_terms head, mfa_row_terms terms,
                              mfa_index first_row, mfa_index first_key, uint lane, thread mfa_key_products &products,
                              thread mfa_key_products &dweights) {
    const mfa_index row = first_row + mfa_fragment_row(lane);
    const int column = mfa_fragment_column(lane);
    if (mfa_tile_is_whole(p, first_row, 8, first_key, MFA_BK))
        mfa_differentiate_as<OF_BIAS, true>(p, head, terms, row, first_key, column, products, dweights);
    else
        mfa_differentiate_as<OF_BIAS, false>(p, head, terms, row, first_key, column, products, dweights);
}

#endif

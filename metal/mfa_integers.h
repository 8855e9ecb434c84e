/*
 * Products of codes as integers (SageAttention, Zhang et al., 2024). Codes less their zero points, and what queries and
 * weights are rounded to, have no more than 8 bits and a sign, which every MFA_T has exactly. Scales come in outside of
 * the products: those of queries and of rows of keys behind them, those of rows of values in the weights; those of
 * columns of keys in the queries, before these are rounded, and those of columns of values at a row's end.
 */
#ifndef MFA_INTEGERS_H
#define MFA_INTEGERS_H

#include "mfa_arguments.h"
#include "mfa_fragment.h"

/* Scales are normal numbers, as GPUs take others for 0. */
constant float mfa_least_scale = 1.17549435e-38f;

inline float mfa_scale_for(float most, float largest) { return max(most / largest, mfa_least_scale); }

/* ------------------------------------------------------------------ scales of codes */

inline bool mfa_columns_have_scales(mfa_coding<true> coding) {
    return (coding.kind & (MFA_CODES_COLUMNS | MFA_CODES_GROUPS)) != 0;
}

inline float mfa_row_scale(mfa_coding<false>, mfa_origin) { return 1; }
inline float mfa_row_scale(mfa_coding<true> coding, mfa_origin origin) {
    return mfa_columns_have_scales(coding) ? 1.0f : mfa_scale_at(coding, mfa_code_row(coding, origin));
}

/* Which is then all rows'. */
inline float mfa_column_scale(mfa_coding<false>, int) { return 1; }
inline float mfa_column_scale(mfa_coding<true> coding, int column) {
    mfa_origin first;
    first.batch = first.row = 0;
    return mfa_columns_have_scales(coding)
               ? mfa_scale_at(coding, mfa_code_column(coding, mfa_code_row(coding, first), column))
               : 1.0f;
}

/* ------------------------------------------------------------------ queries */

/* What a column of keys is, as a query that is rounded knows it. */
inline float mfa_key_mean(mfa_coding<false>, int) { return 0; }
inline float mfa_key_mean(mfa_coding<true> coding, int column) {
    return (coding.kind & MFA_CODES_MEAN) != 0 ? coding.terms.mean[column * coding.strides->mean.column] : 0.0f;
}

inline mfa_metal_query_terms mfa_query_terms_of(constant mfa_metal_params &p, mfa_queries queries,
                                                mfa_sequence sequence, mfa_index head, mfa_index row) {
    return queries.terms[mfa_stored_row(p, sequence, head, row)];
}

/* Rounds a row, which may stay where it is: a simdgroup's work. */
inline mfa_metal_query_terms mfa_round_query(mfa_rows<MFA_T> from, mfa_rows<MFA_K> keys, mfa_result_rows<MFA_T> to,
                                             mfa_index row, uint lane) {
    const device MFA_T *source = mfa_row_at(from, row);
    device MFA_T *target = mfa_row_at(to, row);
    float most = 0, mean = 0;
    for (int column = int(lane); column < from.length; column += 32) {
        const float x = float(source[column * from.column_stride]);
        most = max(most, fabs(x * mfa_column_scale(keys.coding, column)));
        mean = fma(x, mfa_key_mean(keys.coding, column), mean);
    }
    mfa_metal_query_terms terms;
    terms.scale = mfa_scale_for(simd_max(most), 127);
    terms.mean = simd_sum(mean);
    for (int column = int(lane); column < from.length; column += 32) {
        const float x = float(source[column * from.column_stride]);
        target[column * to.column_stride] = MFA_T(rint(x * mfa_column_scale(keys.coding, column) / terms.scale));
    }
    return terms;
}

/* Products of rounded queries and codes become those of queries and keys, where the row sees the key: the scales of
   other keys may not be there. */
template <int FRAGMENTS>
inline void mfa_scale_products(mfa_rows<MFA_K> keys, mfa_metal_query_terms terms, mfa_span seen, mfa_index first_key,
                               int column, thread float2 (&products)[FRAGMENTS]) {
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            const mfa_index key = first_key + 8 * f + column + i;
            if (key >= seen.begin && key < seen.end)
                products[f][i] =
                    fma(products[f][i], terms.scale * mfa_row_scale(keys.coding, mfa_row_origin(keys.paging, key)),
                        terms.mean);
        }
}

/* ------------------------------------------------------------------ weights */

/* Rounds a row's weights, which take in the scales of the values that they are for; returns the scale of them all. */
template <int FRAGMENTS>
inline float mfa_round_weights(mfa_rows<MFA_V> values, mfa_span seen, mfa_index first_key, int column,
                               thread float2 (&weights)[FRAGMENTS]) {
    float most = 0;
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        for (int i = 0; i < 2; ++i) {
            const mfa_index key = first_key + 8 * f + column + i;
            if (key >= seen.begin && key < seen.end)
                weights[f][i] *= mfa_row_scale(values.coding, mfa_row_origin(values.paging, key));
            most = max(most, weights[f][i]);
        }
    const float scale = mfa_scale_for(mfa_row_max(most), 255);
#pragma unroll
    for (int f = 0; f < FRAGMENTS; ++f)
        weights[f] = rint(weights[f] / scale);
    return scale;
}

/* Columns column and column + 1 of a row's sums. */
inline float2 mfa_scale_columns(mfa_rows<MFA_V> values, int column, float2 sums) {
    for (int i = 0; i < 2; ++i)
        if (column + i < values.length)
            sums[i] *= mfa_column_scale(values.coding, column + i);
    return sums;
}

#endif

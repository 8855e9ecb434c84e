/*
 * Rotary embedding: column pairs (x, y) of a row become (x cos - y sin, x sin + y cos), for the angles of its position.
 * RoFormer (Su et al., 2021).
 */
#ifndef MFA_ROTARY_H
#define MFA_ROTARY_H

#include "mfa_rows.h"

#define MFA_ROTARY_ARGUMENTS                                                                             \
    const device uchar *rotary_cos [[buffer(MFA_BUFFER_ROTARY_COS), function_constant(has_rotary)]],     \
        const device uchar *rotary_sin [[buffer(MFA_BUFFER_ROTARY_SIN), function_constant(has_rotary)]], \
        const device int *rotary_positions                                                               \
        [[buffer(MFA_BUFFER_ROTARY_POSITIONS), function_constant(has_rotary_positions)]]
#define MFA_ROTARY mfa_rotary_of(rotary_cos, rotary_sin, rotary_positions)

/* What is there. */
struct mfa_rotary {
    const device uchar *cosines, *sines;
    const device int *positions;
};

inline mfa_rotary mfa_rotary_of(const device uchar *cosines, const device uchar *sines, const device int *positions) {
    mfa_rotary rotary;
    if (has_rotary) {
        rotary.cosines = cosines;
        rotary.sines = sines;
    }
    if (has_rotary_positions)
        rotary.positions = positions;
    return rotary;
}

/* Of the first new key and of the first query. */
inline mfa_index mfa_rotary_position(constant mfa_metal_params &p, mfa_rotary rotary, mfa_sequence sequence) {
    if (has_rotary_positions)
        return mfa_list_entry(rotary.positions, p.rotary_positions.column, sequence.number, p.rotary_rows);
    return sequence.filled;
}

inline float mfa_angle(const device uchar *table, bool is_float, constant mfa_metal_strides &strides,
                       mfa_index position, mfa_index pair) {
    const mfa_index place = position * strides.row + pair * strides.column;
    return is_float ? ((const device float *)table)[place] : float(((const device MFA_T *)table)[place]);
}

/* A column of a row, turned likewise. */
template <typename S>
inline float mfa_turned_column(constant mfa_metal_params &p, mfa_rotary rotary, mfa_index position,
                               const device S *source, mfa_index stride, mfa_index column) {
    const mfa_index pairs = has_rotary ? p.rotary_pairs : 0, place = min(position, p.rotary_rows - 1);
    const float own = float(source[column * stride]);
    if (column >= 2 * pairs)
        return own;
    const bool is_second = is_interleaved ? (column & 1) != 0 : column >= pairs;
    const mfa_index apart = is_interleaved ? mfa_index(1) : pairs, first = is_second ? column - apart : column;
    const mfa_index pair = is_interleaved ? first / 2 : first;
    const float other = float(source[(is_second ? first : first + apart) * stride]);
    const float cosine = mfa_angle(rotary.cosines, has_float_cosines, p.rotary_cos, place, pair);
    const float sine = mfa_angle(rotary.sines, has_float_sines, p.rotary_sin, place, pair);
    return is_second ? other * sine + own * cosine : own * cosine - other * sine;
}

/* Copies a row, turned, if there are tables, by a position, which is cut to those that they have: a simdgroup's work. */
template <typename S>
inline void mfa_turn_row(constant mfa_metal_params &p, mfa_rotary rotary, mfa_index position, mfa_rows<S> from,
                         mfa_index row, mfa_result_rows<S> to, mfa_index to_row, uint lane) {
    const device S *source = mfa_row_at(from, row);
    device S *target = mfa_row_at(to, to_row);
    const mfa_index pairs = has_rotary ? p.rotary_pairs : 0, place = min(position, p.rotary_rows - 1);
    for (mfa_index pair = lane; pair < pairs; pair += 32) {
        const mfa_index first = is_interleaved ? 2 * pair : pair, second = first + (is_interleaved ? 1 : pairs);
        const float x = float(source[first * from.column_stride]), y = float(source[second * from.column_stride]);
        const float cosine = mfa_angle(rotary.cosines, has_float_cosines, p.rotary_cos, place, pair);
        const float sine = mfa_angle(rotary.sines, has_float_sines, p.rotary_sin, place, pair);
        target[first * to.column_stride] = S(x * cosine - y * sine);
        target[second * to.column_stride] = S(x * sine + y * cosine);
    }
    for (mfa_index column = 2 * pairs + lane; column < from.length; column += 32)
        target[column * to.column_stride] = source[column * from.column_stride];
}

#endif

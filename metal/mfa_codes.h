/* Codes of keys and values: how they are unpacked, and what they stand for, scale * (code - zero point) + mean. */
#ifndef MFA_CODES_H
#define MFA_CODES_H

#include "mfa_sequences.h"

/* ------------------------------------------------------------------ how elements are stored */

/* Two codes of 4 bits, the first in the low half. */
struct mfa_int4 {
    uchar pair;
};
struct mfa_uint4 {
    uchar pair;
};

/* Of a type that elements are stored as: what is read of them, how many are staged at once, and how many one of the type
   holds. */
template <typename S> struct mfa_storage {
    typedef S element;
    enum { are_codes = false, piece = MFA_VECTOR, count = 1, lowest = 0, highest = 0 };
};
template <> struct mfa_storage<char> {
    typedef float element;
    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 1, lowest = -128, highest = 127 };
};
template <> struct mfa_storage<uchar> {
    typedef float element;
    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 1, lowest = 0, highest = 255 };
};
template <> struct mfa_storage<mfa_int4> {
    typedef float element;
    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 2, lowest = -8, highest = 7 };
};
template <> struct mfa_storage<mfa_uint4> {
    typedef float element;
    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 2, lowest = 0, highest = 15 };
};

/* From one element to another, both at the beginning of a byte. */
template <typename S> inline mfa_index mfa_units(mfa_index elements) { return elements / mfa_storage<S>::count; }

inline float mfa_signed_half(uint bits) { return float(int((bits & 15) ^ 8) - 8); }
inline float mfa_unsigned_half(uint bits) { return float(bits & 15); }

inline float mfa_code_at(const device char *codes, mfa_index place) { return float(codes[place]); }
inline float mfa_code_at(const device uchar *codes, mfa_index place) { return float(codes[place]); }
inline float mfa_code_at(const device mfa_int4 *codes, mfa_index place) {
    return mfa_signed_half(uint(codes[place / 2].pair) >> 4 * (place & 1));
}
inline float mfa_code_at(const device mfa_uint4 *codes, mfa_index place) {
    return mfa_unsigned_half(uint(codes[place / 2].pair) >> 4 * (place & 1));
}

/* COUNT codes side by side, in one load. */
template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device char *codes) {
    const vec<char, COUNT> piece = *(const device vec<char, COUNT> *)codes;
    return vec<float, COUNT>(piece);
}
template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device uchar *codes) {
    const vec<uchar, COUNT> piece = *(const device vec<uchar, COUNT> *)codes;
    return vec<float, COUNT>(piece);
}
template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device mfa_int4 *codes) {
    const uint bits = *(const device conditional_t<COUNT == 2, uchar, ushort> *)codes;
    vec<float, COUNT> piece;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        piece[i] = mfa_signed_half(bits >> 4 * i);
    return piece;
}
template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device mfa_uint4 *codes) {
    const uint bits = *(const device conditional_t<COUNT == 2, uchar, ushort> *)codes;
    vec<float, COUNT> piece;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        piece[i] = mfa_unsigned_half(bits >> 4 * i);
    return piece;
}

/* MFA_CODES_VECTOR of them, likewise. */
struct mfa_code_parts {
    vec<float, MFA_VECTOR> parts[MFA_CODES_VECTOR / MFA_VECTOR];
};

inline mfa_code_parts mfa_unpack_parts(const device char *codes) {
    const vec<uint, 2> words = *(const device vec<uint, 2> *)codes;
    mfa_code_parts found;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        found.parts[i / 4][i % 4] = float(int(words[i / 4] << 8 * (3 - i % 4)) >> 24);
    return found;
}
inline mfa_code_parts mfa_unpack_parts(const device uchar *codes) {
    const vec<uint, 2> words = *(const device vec<uint, 2> *)codes;
    mfa_code_parts found;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        found.parts[i / 4][i % 4] = float(words[i / 4] >> 8 * (i % 4) & 255);
    return found;
}
inline mfa_code_parts mfa_unpack_parts(const device mfa_int4 *codes) {
    const uint word = *(const device uint *)codes;
    mfa_code_parts found;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        found.parts[i / 4][i % 4] = mfa_signed_half(word >> 4 * i);
    return found;
}
inline mfa_code_parts mfa_unpack_parts(const device mfa_uint4 *codes) {
    const uint word = *(const device uint *)codes;
    mfa_code_parts found;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        found.parts[i / 4][i % 4] = mfa_unsigned_half(word >> 4 * i);
    return found;
}

/* ------------------------------------------------------------------ what codes stand for */

/* Those that are there. */
struct mfa_code_terms {
    const device uchar *scales, *zero_points;
    const device float *mean;
};

/* Of the rows of one head. Rows of floats stand for themselves. */
template <bool ARE_CODES> struct mfa_coding {};
template <> struct mfa_coding<true> {
    constant mfa_metal_coding *strides;
    uint kind;                               /* MFA_CODES_... */
    mfa_code_terms terms;                    /* of all heads, but for the mean */
    mfa_index first_scale, first_zero_point; /* of the head, where its rows begin or on page 0 */
    mfa_index first_row;                     /* where a row is stored, less its number */
};

inline void mfa_find_coding(thread mfa_coding<false> &, constant mfa_metal_coding &, uint, mfa_code_terms, mfa_sequence,
                            mfa_origin, mfa_index) {}
inline void mfa_find_coding(thread mfa_coding<true> &coding, constant mfa_metal_coding &strides, uint kind,
                            mfa_code_terms terms, mfa_sequence sequence, mfa_origin origin, mfa_index head) {
    coding.strides = &strides;
    coding.kind = kind;
    coding.terms = terms;
    coding.first_scale = mfa_place(strides.scales, origin.batch, head, 0);
    coding.first_zero_point = mfa_place(strides.zero_points, origin.batch, head, 0);
    coding.first_row = origin.row;
    if ((kind & MFA_CODES_MEAN) != 0)
        coding.terms.mean = terms.mean + mfa_place(strides.mean, sequence.number, head, 0);
}

/* To rows that begin where one lies. */
inline void mfa_move_coding(thread mfa_coding<false> &, mfa_origin) {}
inline void mfa_move_coding(thread mfa_coding<true> &coding, mfa_origin origin) {
    coding.first_scale += origin.batch * coding.strides->scales.batch;
    coding.first_zero_point += origin.batch * coding.strides->zero_points.batch;
    coding.first_row += origin.row;
}

/* Where the scale and the zero point of an element are. */
struct mfa_code_place {
    mfa_index scale, zero_point;
};

/* Of a row, before what columns add. */
inline mfa_code_place mfa_code_row(mfa_coding<true> coding, mfa_origin origin) {
    const mfa_index row = coding.first_row + origin.row, shift = coding.strides->row_shift;
    const mfa_index line = shift >= 0 ? row >> shift : mfa_quotient(row, coding.strides->rows);
    mfa_code_place place;
    place.scale = coding.first_scale + mfa_place(coding.strides->scales, origin.batch, 0, line);
    place.zero_point = coding.first_zero_point + mfa_place(coding.strides->zero_points, origin.batch, 0, line);
    return place;
}

inline mfa_code_place mfa_code_column(mfa_coding<true> coding, mfa_code_place place, int column) {
    mfa_index group = 0;
    if ((coding.kind & MFA_CODES_COLUMNS) != 0)
        group = column;
    else if ((coding.kind & MFA_CODES_GROUPS) != 0)
        group = mfa_index(mfa_u64(column) * coding.strides->columns_inverse >> 40);
    place.scale += group * coding.strides->scales.column;
    place.zero_point += group * coding.strides->zero_points.column;
    return place;
}

inline float mfa_scale_at(mfa_coding<true> coding, mfa_code_place place) {
    return (coding.kind & MFA_CODES_HALF_SCALES) != 0 ? float(((const device half *)coding.terms.scales)[place.scale])
                                                      : ((const device float *)coding.terms.scales)[place.scale];
}

/* What is read of an element is times. */
inline float mfa_factor_at(mfa_coding<true> coding, mfa_code_place place) {
    return (coding.kind & MFA_CODES_INTEGERS) != 0 ? 1.0f : mfa_scale_at(coding, place);
}

inline float mfa_zero_point_at(mfa_coding<true> coding, mfa_code_place place) {
    if ((coding.kind & MFA_CODES_ZERO_POINTS) == 0)
        return 0;
    if ((coding.kind & MFA_CODES_SIGNED_BYTES) != 0)
        return float(((const device char *)coding.terms.zero_points)[place.zero_point]);
    if ((coding.kind & MFA_CODES_UNSIGNED_BYTES) != 0)
        return float(coding.terms.zero_points[place.zero_point]);
    return float(((const device int *)coding.terms.zero_points)[place.zero_point]);
}

/* Of a row, or of a group of its columns: what all have in common. */
struct mfa_code_line {
    mfa_code_place place;
    float scale, zero_point; /* but where columns have their own */
};

inline mfa_code_line mfa_code_line_at(mfa_coding<true> coding, mfa_code_place place) {
    mfa_code_line line;
    line.place = place;
    line.scale = mfa_factor_at(coding, place);
    line.zero_point = mfa_zero_point_at(coding, place);
    return line;
}

/* Found once for all pieces of the row, if it can be. */
inline mfa_code_line mfa_code_line_of(mfa_coding<true> coding, mfa_origin origin) {
    mfa_code_line line;
    line.place = mfa_code_row(coding, origin);
    if ((coding.kind & (MFA_CODES_COLUMNS | MFA_CODES_GROUPS)) == 0)
        line = mfa_code_line_at(coding, line.place);
    return line;
}

/* For columns from `column` on; groups have whole pieces. */
inline mfa_code_line mfa_code_group(mfa_coding<true> coding, mfa_code_line line, int column) {
    if ((coding.kind & MFA_CODES_GROUPS) != 0)
        return mfa_code_line_at(coding, mfa_code_column(coding, line.place, column));
    return line;
}

/* What codes of columns from `column` on stand for, or are read as, the first `count` of them. */
template <int COUNT>
inline vec<float, COUNT> mfa_decode(mfa_coding<true> coding, mfa_code_line line, int column, int count,
                                    vec<float, COUNT> codes) {
    const mfa_code_place row = line.place;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        if (i < count) {
            if ((coding.kind & MFA_CODES_COLUMNS) != 0)
                line = mfa_code_line_at(coding, mfa_code_column(coding, row, column + i));
            codes[i] = line.scale * (codes[i] - line.zero_point);
            if ((coding.kind & MFA_CODES_MEAN) != 0 && (coding.kind & MFA_CODES_INTEGERS) == 0)
                codes[i] += coding.terms.mean[(column + i) * coding.strides->mean.column];
        }
    return codes;
}

#endif

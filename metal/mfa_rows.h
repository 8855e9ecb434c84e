/* Rows of an operand in device memory: how a row is addressed, and how pieces of it are read and written. */
#ifndef MFA_ROWS_H
#define MFA_ROWS_H

#include "mfa_kernel.h"

/* A piece of a row, as vector instructions move it. */
typedef vec<MFA_T, MFA_VECTOR> mfa_piece;

/* The rows of one head. Columns from `length` on read as zero. */
template <typename T> struct mfa_rows {
    const device T *first;
    mfa_index row_stride, column_stride;
    int length;
};

template <typename T>
inline mfa_rows<T> mfa_rows_of(const device T *operand, constant mfa_metal_strides &strides, mfa_index batch,
                               mfa_index head, mfa_index length) {
    mfa_rows<T> rows;
    rows.first = operand + mfa_place(strides, batch, head, 0);
    rows.row_stride = strides.row;
    rows.column_stride = strides.column;
    rows.length = int(length);
    return rows;
}

/* Columns column .. column + COUNT - 1 of a row, where COUNT divides MFA_VECTOR and `column`. */
template <int COUNT, typename T> inline vec<T, COUNT> mfa_read(mfa_rows<T> rows, mfa_index row, int column) {
    const device T *start = rows.first + row * rows.row_stride;
    vec<T, COUNT> piece = vec<T, COUNT>(T(0));
    if (has_vectors) {
        if (column < rows.length)
            piece = *(const device vec<T, COUNT> *)(start + column);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (column + i < rows.length)
                piece[i] = start[(column + i) * rows.column_stride];
    }
    return piece;
}

/* inf and NaN times 0 are NaN. */
template <int COUNT, typename T> inline bool mfa_is_finite(vec<T, COUNT> elements) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        sum = fma(float(elements[i]), 0.0f, sum);
    return sum == 0;
}

template <int COUNT, typename T> inline vec<T, COUNT> mfa_only_finite(vec<T, COUNT> elements) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i)
        elements[i] = isfinite(float(elements[i])) ? elements[i] : T(0);
    return elements;
}

/* Columns column and column + 1 of the row that starts at `row`. */
template <typename T>
inline void mfa_write_pair(device T *row, mfa_index column_stride, int column, mfa_index length, float2 pair) {
    if (has_vectors) {
        if (column < length)
            *(device vec<T, 2> *)(row + column) = vec<T, 2>(T(pair[0]), T(pair[1]));
    } else {
        for (int i = 0; i < 2; ++i)
            if (column + i < length)
                row[(column + i) * column_stride] = T(pair[i]);
    }
}

/*
 * Copies ROWS x COLUMNS elements, from row first_row and column first_column on, to threadgroup memory: element (r, c) goes to
 * r * LEAD + c, or to c * LEAD + r if TRANSPOSED. Rows outside begin .. end - 1, counted from first_row, are not read, and become
 * zero. If FINITE, so does what is not finite; true if this thread met any.
 */
template <int ROWS, int COLUMNS, int LEAD, bool TRANSPOSED, bool FINITE, int THREADS, typename T>
inline bool mfa_stage(threadgroup T *tile, mfa_rows<T> rows, mfa_index first_row, int begin, int end, int first_column,
                      uint thread_number) {
    const int across = COLUMNS / MFA_VECTOR;
    bool found = false;
    for (int piece = int(thread_number); piece < ROWS * across; piece += THREADS) {
        const int row = piece / across, column = piece % across * MFA_VECTOR;
        vec<T, MFA_VECTOR> elements = vec<T, MFA_VECTOR>(T(0));
        if (row >= begin && row < end)
            elements = mfa_read<MFA_VECTOR>(rows, first_row + row, first_column + column);
        if (FINITE && !mfa_is_finite<MFA_VECTOR, T>(elements)) {
            found = true;
            elements = mfa_only_finite<MFA_VECTOR, T>(elements);
        }
        if (TRANSPOSED) {
            for (int i = 0; i < MFA_VECTOR; ++i)
                tile[(column + i) * LEAD + row] = elements[i];
        } else {
            *(threadgroup vec<T, MFA_VECTOR> *)(tile + row * LEAD + column) = elements;
        }
    }
    return found;
}

/* Two neighbours in threadgroup memory, the first at an even place. */
template <typename T> inline vec<T, 2> mfa_read_staged(const threadgroup T *at) {
    return *(const threadgroup vec<T, 2> *)at;
}

/* Elements between the starts of staged rows, which keep neighbours out of each other's memory banks. */
#define MFA_LEAD(columns) ((columns) + 16 / int(sizeof(MFA_T)))

#endif

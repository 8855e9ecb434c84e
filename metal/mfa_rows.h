/* Rows of an operand in device memory: how a row is addressed, and how pieces of it are read, written and staged. */
#ifndef MFA_ROWS_H
#define MFA_ROWS_H

#include "mfa_codes.h"

/* Of a sequence, with pages: which of them its rows lie in. */
struct mfa_paging {
    bool is_paged; /* this operand */
    const device int *entries;
    mfa_index entry_stride, page_stride, first_row, page_rows, last_page;
};

inline mfa_paging mfa_paging_of(constant mfa_metal_params &p, constant mfa_metal_strides &strides,
                                mfa_sequence sequence) {
    mfa_paging paging;
    if (has_pages) {
        paging.is_paged = true;
        paging.entries = sequence.pages;
        paging.entry_stride = p.page_table.column;
        paging.page_stride = strides.batch;
        paging.first_row = sequence.keys.row;
        paging.page_rows = p.cache_rows;
        paging.last_page = p.cache_batches - 1;
    }
    return paging;
}

inline mfa_paging mfa_no_paging() {
    mfa_paging paging;
    if (has_pages)
        paging.is_paged = false;
    return paging;
}

/* The page that a row lies in, and which of the page's rows it is; without pages the row itself. */
inline mfa_origin mfa_row_origin(mfa_paging paging, mfa_index row) {
    mfa_origin origin;
    origin.batch = 0;
    origin.row = row;
    if (has_pages && paging.is_paged) {
        const mfa_index place = paging.first_row + row, entry = mfa_quotient(place, paging.page_rows);
        origin.batch = mfa_rule_clamp(paging.entries[entry * paging.entry_stride], paging.last_page);
        origin.row = place - entry * paging.page_rows;
    }
    return origin;
}

/* Elements from row 0 of a sequence, or from its first page's row 0 on page 0, to a row. */
inline mfa_index mfa_row_place(mfa_paging paging, mfa_index row_stride, mfa_origin origin) {
    return (has_pages && paging.is_paged ? origin.batch * paging.page_stride : 0) + origin.row * row_stride;
}

/* The rows of one head. Columns from `length` on read as zero. */
template <typename S> struct mfa_rows {
    const device S *first;
    mfa_index row_stride, column_stride;
    int length;
    mfa_paging paging;
    mfa_coding<mfa_storage<S>::are_codes> coding; /* what codes stand for */
};

/* The same of a result. Columns from `length` on are not written. */
template <typename S> struct mfa_result_rows {
    device S *first;
    mfa_index row_stride, column_stride;
    int length;
    mfa_paging paging;
};

template <typename S>
inline mfa_rows<S> mfa_rows_of(const device S *operand, constant mfa_metal_strides &strides, mfa_origin origin,
                               mfa_index head, mfa_index length) {
    mfa_rows<S> rows;
    rows.first = operand + mfa_units<S>(mfa_place(strides, origin.batch, head, origin.row));
    rows.row_stride = strides.row;
    rows.column_stride = strides.column;
    rows.length = int(length);
    rows.paging = mfa_no_paging();
    return rows;
}

template <typename S>
inline mfa_result_rows<S> mfa_result_rows_of(device S *result, constant mfa_metal_strides &strides, mfa_origin origin,
                                             mfa_index head, mfa_index length) {
    mfa_result_rows<S> rows;
    rows.first = result + mfa_units<S>(mfa_place(strides, origin.batch, head, origin.row));
    rows.row_stride = strides.row;
    rows.column_stride = strides.column;
    rows.length = int(length);
    rows.paging = mfa_no_paging();
    return rows;
}

/* Where a sequence's keys begin in memory, for rows to be counted from. */
inline mfa_origin mfa_key_origin(mfa_sequence sequence) {
    mfa_origin origin = sequence.keys;
    if (has_pages)
        origin.batch = origin.row = 0;
    return origin;
}

/* Keys, values and their gradients. */
template <typename S>
inline mfa_rows<S> mfa_cache_rows_of(const device S *operand, constant mfa_metal_params &p,
                                     constant mfa_metal_strides &strides, mfa_sequence sequence, mfa_index head,
                                     mfa_index length) {
    mfa_rows<S> rows = mfa_rows_of(operand, strides, mfa_key_origin(sequence), head, length);
    rows.paging = mfa_paging_of(p, strides, sequence);
    return rows;
}
template <typename S>
inline mfa_result_rows<S> mfa_cache_result_rows_of(device S *result, constant mfa_metal_params &p,
                                                   constant mfa_metal_strides &strides, mfa_sequence sequence,
                                                   mfa_index head, mfa_index length) {
    mfa_result_rows<S> rows = mfa_result_rows_of(result, strides, mfa_key_origin(sequence), head, length);
    rows.paging = mfa_paging_of(p, strides, sequence);
    return rows;
}

/* Column 0 of a row. */
template <typename S> inline const device S *mfa_row_at(mfa_rows<S> rows, mfa_index row) {
    return rows.first + mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, mfa_row_origin(rows.paging, row)));
}
template <typename S> inline device S *mfa_row_at(mfa_result_rows<S> rows, mfa_index row) {
    return rows.first + mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, mfa_row_origin(rows.paging, row)));
}

/* Rows that begin at one of them, which then is row 0 and has no page to be looked up. */
template <typename S> inline mfa_rows<S> mfa_rows_from(mfa_rows<S> rows, mfa_index row) {
    const mfa_origin origin = mfa_row_origin(rows.paging, row);
    rows.first += mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, origin));
    mfa_move_coding(rows.coding, origin);
    rows.paging = mfa_no_paging();
    return rows;
}

/* A row that pieces are read of, one after the other: of codes, what all of them need. */
template <typename S, bool ARE_CODES = mfa_storage<S>::are_codes != 0> struct mfa_found_row {
    mfa_index row;
};
template <typename S> struct mfa_found_row<S, true> {
    const device S *start;
    mfa_code_line line;
};

template <typename S> inline void mfa_find_row(thread mfa_found_row<S, false> &found, mfa_rows<S>, mfa_index row) {
    found.row = row;
}
template <typename S> inline void mfa_find_row(thread mfa_found_row<S, true> &found, mfa_rows<S> rows, mfa_index row) {
    const mfa_origin origin = mfa_row_origin(rows.paging, row);
    found.start = rows.first + mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, origin));
    found.line = mfa_code_line_of(rows.coding, origin);
}

template <int COUNT, typename S>
inline vec<S, COUNT> mfa_read_found(mfa_rows<S> rows, mfa_found_row<S, false> found, int column) {
    const device S *start = mfa_row_at(rows, found.row);
    vec<S, COUNT> piece = vec<S, COUNT>(S(0));
    if (has_vectors) {
        if (column < rows.length)
            piece = *(const device vec<S, COUNT> *)(start + column);
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (column + i < rows.length)
                piece[i] = start[(column + i) * rows.column_stride];
    }
    return piece;
}

template <int COUNT, typename S>
inline vec<float, COUNT> mfa_read_found(mfa_rows<S> rows, mfa_found_row<S, true> found, int column) {
    vec<float, COUNT> piece = vec<float, COUNT>(0);
    if (column >= rows.length)
        return piece;
    if (has_vectors) {
        piece = mfa_unpack<COUNT>(found.start + mfa_units<S>(column));
    } else {
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            if (column + i < rows.length)
                piece[i] = mfa_code_at(found.start, (column + i) * rows.column_stride);
    }
    return mfa_decode<COUNT>(rows.coding, mfa_code_group(rows.coding, found.line, column), column,
                             has_vectors ? COUNT : rows.length - column, piece);
}

/* Columns column .. column + COUNT - 1 of a row, where COUNT divides MFA_VECTOR and `column`. */
template <int COUNT, typename S>
inline vec<typename mfa_storage<S>::element, COUNT> mfa_read(mfa_rows<S> rows, mfa_index row, int column) {
    mfa_found_row<S> found;
    mfa_find_row(found, rows, row);
    return mfa_read_found<COUNT>(rows, found, column);
}

/* As many as are staged at once. */
template <typename S> struct mfa_parts {
    enum { count = mfa_storage<S>::piece / MFA_VECTOR };
    vec<typename mfa_storage<S>::element, MFA_VECTOR> parts[count];
};

template <typename S> inline mfa_parts<S> mfa_read_parts(mfa_rows<S> rows, mfa_found_row<S, false> found, int column) {
    mfa_parts<S> piece;
    piece.parts[0] = mfa_read_found<MFA_VECTOR>(rows, found, column);
    return piece;
}
template <typename S> inline mfa_parts<S> mfa_read_parts(mfa_rows<S> rows, mfa_found_row<S, true> found, int column) {
    mfa_parts<S> piece;
    if (has_vectors && column < rows.length) {
        const mfa_code_line line = mfa_code_group(rows.coding, found.line, column);
        const mfa_code_parts codes = mfa_unpack_parts(found.start + mfa_units<S>(column));
#pragma unroll
        for (int i = 0; i < mfa_parts<S>::count; ++i)
            piece.parts[i] =
                mfa_decode<MFA_VECTOR>(rows.coding, line, column + i * MFA_VECTOR, MFA_VECTOR, codes.parts[i]);
    } else {
#pragma unroll
        for (int i = 0; i < mfa_parts<S>::count; ++i)
            piece.parts[i] = mfa_read_found<MFA_VECTOR>(rows, found, column + i * MFA_VECTOR);
    }
    return piece;
}

/* Columns column and column + 1 of a row. */
template <typename S> inline void mfa_write_pair(mfa_result_rows<S> rows, mfa_index row, int column, float2 pair) {
    device S *start = mfa_row_at(rows, row);
    if (has_vectors) {
        if (column < rows.length)
            *(device vec<S, 2> *)(start + column) = vec<S, 2>(S(pair[0]), S(pair[1]));
    } else {
        for (int i = 0; i < 2; ++i)
            if (column + i < rows.length)
                start[(column + i) * rows.column_stride] = S(pair[i]);
    }
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

/* From one row of a staged tile to the next: 16 bytes more than it holds, so that rows begin in different memory banks.
   */
template <typename V> constexpr int mfa_lead(int columns) { return columns + 16 / int(sizeof(V)); }

/*
 * Copies ROWS x COLUMNS elements, from row first_row and column first_column on, to threadgroup memory, from the type
 * that they are stored in to the one that is computed with: element (r, c) goes to r * mfa_lead<V>(COLUMNS) + c, or to
 * c * mfa_lead<V>(ROWS) + r if TRANSPOSED. Rows outside begin .. end - 1, counted from first_row, are not read, and
 * become zero. If FINITE, so do non-finite values; true if this thread met any.
 */
template <int ROWS, int COLUMNS, bool TRANSPOSED, bool FINITE, int THREADS, typename V, typename S>
inline bool mfa_stage(threadgroup V *tile, mfa_rows<S> rows, mfa_index first_row, int begin, int end, int first_column,
                      uint thread_number) {
    constexpr int size = mfa_storage<S>::piece, across = COLUMNS / size,
                  lead = mfa_lead<V>(TRANSPOSED ? ROWS : COLUMNS);
    static_assert(COLUMNS % size == 0, "whole pieces");
    bool found = false;
    for (int number = int(thread_number); number < ROWS * across; number += THREADS) {
        const int row = number / across, first = number % across * size;
        mfa_parts<S> piece;
        const bool exists = row >= begin && row < end;
        if (exists) {
            mfa_found_row<S> at;
            mfa_find_row(at, rows, first_row + row);
            piece = mfa_read_parts(rows, at, first_column + first);
        }
#pragma unroll
        for (int part = 0; part < mfa_parts<S>::count; ++part) {
            const int column = first + part * MFA_VECTOR;
            vec<V, MFA_VECTOR> elements = vec<V, MFA_VECTOR>(V(0));
            if (exists)
                elements = vec<V, MFA_VECTOR>(piece.parts[part]);
            if (FINITE && !mfa_is_finite<MFA_VECTOR, V>(elements)) {
                found = true;
                elements = mfa_only_finite<MFA_VECTOR, V>(elements);
            }
            if (TRANSPOSED) {
                for (int i = 0; i < MFA_VECTOR; ++i)
                    tile[(column + i) * lead + row] = elements[i];
            } else {
                *(threadgroup vec<V, MFA_VECTOR> *)(tile + row * lead + column) = elements;
            }
        }
    }
    return found;
}

/* Two neighbours in threadgroup memory, the first at an even place. */
template <typename V> inline vec<V, 2> mfa_read_staged(const threadgroup V *first) {
    return *(const threadgroup vec<V, 2> *)first;
}

#endif

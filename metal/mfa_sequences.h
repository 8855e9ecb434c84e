/*
 * Sequences: how many queries and keys each has, where its rows lie, and which tile of it a threadgroup has. All of it
 * comes from the lists as the caller has them, cut to what is there: nobody has checked those in private storage.
 */
#ifndef MFA_SEQUENCES_H
#define MFA_SEQUENCES_H

#include "mfa_kernel.h"

/* ------------------------------------------------------------------ lists */

#define MFA_SEQUENCE_ARGUMENTS                                                                                      \
    const device int *query_starts [[buffer(MFA_BUFFER_QUERY_STARTS), function_constant(has_query_starts)]],        \
        const device int *key_starts [[buffer(MFA_BUFFER_KEY_STARTS), function_constant(has_key_starts)]],          \
        const device int *query_lengths [[buffer(MFA_BUFFER_QUERY_LENGTHS), function_constant(has_query_lengths)]], \
        const device int *key_lengths [[buffer(MFA_BUFFER_KEY_LENGTHS), function_constant(has_key_lengths)]],       \
        const device int *left_padding [[buffer(MFA_BUFFER_LEFT_PADDING), function_constant(has_left_padding)]],    \
        const device int *key_batches [[buffer(MFA_BUFFER_KEY_BATCHES), function_constant(has_key_batches)]],       \
        const device int *page_table [[buffer(MFA_BUFFER_PAGE_TABLE), function_constant(has_pages)]],               \
        const device int *new_starts [[buffer(MFA_BUFFER_NEW_STARTS), function_constant(has_new_starts)]]
#define MFA_LISTS                                                                                             \
    mfa_lists_of(query_starts, key_starts, query_lengths, key_lengths, left_padding, key_batches, page_table, \
                 new_starts)

/* Those that are there. */
struct mfa_lists {
    const device int *query_starts, *key_starts, *query_lengths, *key_lengths, *left_padding, *key_batches, *page_table;
    const device int *new_starts;
};

inline mfa_lists mfa_lists_of(const device int *query_starts, const device int *key_starts,
                              const device int *query_lengths, const device int *key_lengths,
                              const device int *left_padding, const device int *key_batches,
                              const device int *page_table, const device int *new_starts) {
    mfa_lists lists;
    if (has_query_starts)
        lists.query_starts = query_starts;
    if (has_key_starts)
        lists.key_starts = key_starts;
    if (has_query_lengths)
        lists.query_lengths = query_lengths;
    if (has_key_lengths)
        lists.key_lengths = key_lengths;
    if (has_left_padding)
        lists.left_padding = left_padding;
    if (has_key_batches)
        lists.key_batches = key_batches;
    if (has_pages)
        lists.page_table = page_table;
    if (has_new_starts)
        lists.new_starts = new_starts;
    return lists;
}

/* An entry of a list, at most `most`. */
inline mfa_index mfa_list_entry(const device int *list, mfa_index stride, mfa_index i, mfa_index most) {
    return mfa_rule_clamp(list[i * stride], most);
}

/* The rows of a sequence, of the `rows` that a packed operand has for `count` sequences. */
inline mfa_span mfa_packed_rows(const device int *starts, mfa_index stride, mfa_index count, mfa_index rows,
                                mfa_index number) {
    const mfa_index begin = mfa_list_entry(starts, stride, number, rows);
    return mfa_span_of(begin, max(begin, mfa_list_entry(starts, stride, min(number + 1, count), rows)));
}

/* ------------------------------------------------------------------ one sequence */

/* Where its row 0 lies in an operand. */
struct mfa_origin {
    mfa_index batch, row;
};

struct mfa_sequence {
    mfa_index number;
    mfa_extent extent;
    mfa_origin queries, keys;
    const device int *pages; /* its part of the page table; `keys` then counts from the first page's first row on */
    /* Where rows are appended: the first of these keys, of which there are as many as follow it, and where they come
       from; and how many rows the cache had before, padding included. */
    mfa_index first_new, filled;
    mfa_origin added;
};

inline void mfa_find_queries(constant mfa_metal_params &p, mfa_lists lists, thread mfa_sequence &sequence) {
    mfa_index count = p.stored_rows;
    if (has_query_starts) {
        const mfa_span rows =
            mfa_packed_rows(lists.query_starts, p.query_starts.column, p.batch, p.stored_rows, sequence.number);
        sequence.queries.batch = 0;
        sequence.queries.row = rows.begin;
        count = rows.end - rows.begin;
    }
    if (has_query_lengths)
        count = mfa_list_entry(lists.query_lengths, p.query_lengths.column, sequence.number, count);
    sequence.extent.query_count = min(count, p.query_count);
}

/* How many rows are appended, where there is room for `most`. */
inline mfa_index mfa_find_new(constant mfa_metal_params &p, mfa_lists lists, mfa_index most,
                              thread mfa_sequence &sequence) {
    mfa_index count = p.new_rows;
    sequence.added.batch = sequence.number;
    sequence.added.row = 0;
    if (has_new_starts) {
        const mfa_span rows =
            mfa_packed_rows(lists.new_starts, p.new_starts.column, p.batch, p.new_rows, sequence.number);
        sequence.added.batch = 0;
        sequence.added.row = rows.begin;
        count = rows.end - rows.begin;
    }
    return min(count, most);
}

inline void mfa_find_keys(constant mfa_metal_params &p, mfa_lists lists, thread mfa_sequence &sequence) {
    mfa_index count = p.cache_capacity;
    if (has_key_starts) {
        const mfa_span rows =
            mfa_packed_rows(lists.key_starts, p.key_starts.column, p.batch, p.cache_rows, sequence.number);
        sequence.keys.batch = 0;
        sequence.keys.row = rows.begin;
        count = rows.end - rows.begin;
    }
    if (has_key_batches)
        sequence.keys.batch =
            mfa_list_entry(lists.key_batches, p.key_batches.column, sequence.number, p.cache_batches - 1);
    if (has_pages)
        sequence.pages = lists.page_table + sequence.number * p.page_table.row;
    const mfa_index capacity = count;
    if (has_key_lengths)
        count = mfa_list_entry(lists.key_lengths, p.key_lengths.column, sequence.number, count);
    sequence.filled = count;
    if (has_left_padding) {
        const mfa_index padding = mfa_list_entry(lists.left_padding, p.left_padding.column, sequence.number, count);
        sequence.keys.row += padding;
        count -= padding;
    }
    sequence.first_new = min(count, p.key_count);
    if (has_append)
        count += mfa_find_new(p, lists, capacity - sequence.filled, sequence);
    sequence.extent.key_count = min(count, p.key_count);
}

inline mfa_sequence mfa_sequence_of(constant mfa_metal_params &p, mfa_lists lists, mfa_index number) {
    mfa_sequence sequence;
    sequence.number = sequence.queries.batch = sequence.keys.batch = number;
    sequence.queries.row = sequence.keys.row = 0;
    sequence.extent.query_count = p.query_count;
    sequence.extent.key_count = p.key_count;
    sequence.extent.offset = p.offset;
    sequence.extent.left = p.window_left;
    sequence.extent.right = p.window_right;
    sequence.extent.chunk = has_chunk ? p.chunk : 0;
    if (has_sequences) {
        mfa_find_queries(p, lists, sequence);
        mfa_find_keys(p, lists, sequence);
        sequence.extent.offset =
            p.is_bottom_right != 0 ? sequence.extent.key_count - sequence.extent.query_count : mfa_index(0);
    }
    return sequence;
}

/* A row of a sequence, counted among all rows that there are of a head, in scratch memory. */
inline mfa_index mfa_stored_row(constant mfa_metal_params &p, mfa_sequence sequence, mfa_index head, mfa_index row) {
    return (sequence.queries.batch * p.heads + head) * p.stored_rows + sequence.queries.row + row;
}

/* ------------------------------------------------------------------ tiles of sequences */

/*
 * The last of `count` sequences whose rows begin at `place` or before it. In tiles of SIZE rows, where TILES: a
 * sequence's begin at tile starts[number] / SIZE + number, which leaves each sequence as many as it can need.
 */
template <int SIZE, bool TILES>
inline mfa_index mfa_find_sequence(const device int *starts, mfa_index stride, mfa_index count, mfa_index rows,
                                   mfa_index place) {
    mfa_index low = 0, high = count;
    while (low + 1 < high) {
        const mfa_index middle = (low + high) / 2;
        if (mfa_list_entry(starts, stride, middle, rows) / SIZE + (TILES ? middle : 0) <= place)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The number of the only sequence that a row as it lies may be of. */
inline mfa_index mfa_sequence_at(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index row) {
    if (has_query_starts)
        return mfa_find_sequence<1, false>(lists.query_starts, p.query_starts.column, p.batch, p.stored_rows, row);
    return batch;
}

inline bool mfa_has_row(mfa_sequence sequence, mfa_index row) {
    return row >= sequence.queries.row && row < sequence.queries.row + sequence.extent.query_count;
}

/* Rows or keys of one sequence. */
struct mfa_tile {
    mfa_index sequence, first;
};

template <int SIZE>
inline mfa_tile mfa_packed_tile(const device int *starts, mfa_index stride, mfa_index count, mfa_index rows,
                                mfa_index place) {
    mfa_tile tile;
    tile.sequence = mfa_find_sequence<SIZE, true>(starts, stride, count, rows, place);
    tile.first = (place - mfa_list_entry(starts, stride, tile.sequence, rows) / SIZE - tile.sequence) * SIZE;
    return tile;
}

template <int SIZE>
inline mfa_tile mfa_query_tile(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index place) {
    if (has_query_starts)
        return mfa_packed_tile<SIZE>(lists.query_starts, p.query_starts.column, p.batch, p.stored_rows, place);
    mfa_tile tile;
    tile.sequence = batch;
    tile.first = place * SIZE;
    return tile;
}

template <int SIZE>
inline mfa_tile mfa_key_tile(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index place) {
    if (has_key_starts)
        return mfa_packed_tile<SIZE>(lists.key_starts, p.key_starts.column, p.batch, p.cache_rows, place);
    mfa_tile tile;
    tile.sequence = batch;
    tile.first = place * SIZE;
    return tile;
}

/* Whether a tile has rows at all, of the `count` of its sequence. */
inline bool mfa_tile_exists(mfa_tile tile, mfa_index count) {
    return !has_sequences || (tile.first >= 0 && tile.first < count);
}

#endif

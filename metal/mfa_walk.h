/*
 * Which tiles of the scores are visited: every loop over tiles asks here. Causal and window bounds leave one run of
 * keys to a row, and one run of rows to a key; blocks of the problem may leave holes in it.
 */
#ifndef MFA_WALK_H
#define MFA_WALK_H

#include "mfa_arguments.h"

/* ------------------------------------------------------------------ blocks */

/* Of one head. Unused without blocks. */
struct mfa_blocks {
    const device mfa_u32 *words; /* of the first row of blocks */
    mfa_index row_stride;        /* from one row of blocks to the next */
    mfa_index rows, keys;        /* of a block */
};

inline mfa_blocks mfa_blocks_of(constant mfa_metal_params &p, mfa_biases biases, mfa_index batch, mfa_index head) {
    mfa_blocks blocks;
    if (has_blocks) {
        blocks.words = biases.block_words + mfa_place(p.blocks, batch, head, 0);
        blocks.row_stride = p.blocks.row;
        blocks.rows = p.block_rows;
        blocks.keys = p.block_keys;
    }
    return blocks;
}

/* Whether the block of a pair counts. */
inline bool mfa_block_counts(mfa_blocks blocks, mfa_index row, mfa_index key) {
    const mfa_index column = key / blocks.keys;
    return mfa_rule_bit(blocks.words[row / blocks.rows * blocks.row_stride + column / MFA_BLOCK_BITS], column);
}

/* Ones at the bits of a word that stand for columns of a span that meets it. */
inline mfa_u32 mfa_block_bits(mfa_span columns, mfa_index word) {
    const mfa_index first = word * MFA_BLOCK_BITS;
    const mfa_index begin = max(columns.begin - first, mfa_index(0));
    const mfa_index end = min(columns.end - first, mfa_index(MFA_BLOCK_BITS));
    return ~0u << begin & ~0u >> (MFA_BLOCK_BITS - end);
}

/* The first of some columns of blocks that counts in one of some rows of blocks; columns.end: there is none. */
inline mfa_index mfa_next_block_column(mfa_blocks blocks, mfa_span rows, mfa_span columns) {
    for (mfa_index word = columns.begin / MFA_BLOCK_BITS; word * MFA_BLOCK_BITS < columns.end; ++word) {
        mfa_u32 bits = 0;
        for (mfa_index row = rows.begin; row < rows.end; ++row)
            bits |= blocks.words[row * blocks.row_stride + word];
        bits &= mfa_block_bits(columns, word);
        if (bits != 0) {
            mfa_index column = word * MFA_BLOCK_BITS;
            for (; (bits & 1) == 0; bits >>= 1)
                ++column;
            return column;
        }
    }
    return columns.end;
}

/* The first of some rows of blocks in which one of some columns counts; rows.end: there is none. */
inline mfa_index mfa_next_block_row(mfa_blocks blocks, mfa_span rows, mfa_span columns) {
    mfa_index row = rows.begin;
    while (row < rows.end && mfa_next_block_column(blocks, mfa_span_of(row, row + 1), columns) >= columns.end)
        ++row;
    return row;
}

/* Whether all blocks count that hold a pair of the rows and keys. */
inline bool mfa_all_blocks_count(mfa_blocks blocks, mfa_span rows, mfa_span keys) {
    const mfa_span across = mfa_span_tiles(rows, blocks.rows), columns = mfa_span_tiles(keys, blocks.keys);
    bool all = true;
    for (mfa_index row = across.begin; row < across.end; ++row)
        for (mfa_index word = columns.begin / MFA_BLOCK_BITS; word * MFA_BLOCK_BITS < columns.end; ++word)
            all = all && (~blocks.words[row * blocks.row_stride + word] & mfa_block_bits(columns, word)) == 0;
    return all;
}

/* ------------------------------------------------------------------ walks */

/* Over tiles of keys, for some rows of a head; or over tiles of rows, for some keys. */
struct mfa_walk {
    bool over_rows;
    mfa_span own, visited; /* of each, those that may see or be seen as far as bounds tell */
    mfa_blocks blocks;
};

inline mfa_walk mfa_walk_over_keys(mfa_extent extent, mfa_blocks blocks, mfa_span rows) {
    mfa_walk walk;
    walk.over_rows = false;
    walk.own = mfa_span_cut(rows, mfa_span_of(0, extent.query_count));
    walk.visited = mfa_rule_keys_some_see(extent, rows);
    walk.blocks = blocks;
    return walk;
}

inline mfa_walk mfa_walk_over_rows(mfa_extent extent, mfa_blocks blocks, mfa_span keys) {
    mfa_walk walk;
    walk.over_rows = true;
    walk.own = mfa_span_cut(keys, mfa_span_of(0, extent.key_count));
    walk.visited = mfa_rule_rows_some_see(extent, keys);
    walk.blocks = blocks;
    return walk;
}

/* The first place of `span`, not empty, in a block that counts for what is owned; span.end or more: there is none. */
inline mfa_index mfa_walk_find(mfa_walk walk, mfa_span span) {
    const mfa_index size = walk.over_rows ? walk.blocks.rows : walk.blocks.keys;
    const mfa_span own = mfa_span_tiles(walk.own, walk.over_rows ? walk.blocks.keys : walk.blocks.rows);
    const mfa_span among = mfa_span_tiles(span, size);
    const mfa_index found =
        walk.over_rows ? mfa_next_block_row(walk.blocks, among, own) : mfa_next_block_column(walk.blocks, own, among);
    return found == among.end ? span.end : max(found * size, span.begin);
}

/* Whether a tile is visited: some pair of it may be seen. */
inline bool mfa_walk_visits(mfa_walk walk, mfa_span tile) {
    const mfa_span part = mfa_span_cut(walk.visited, tile);
    return !mfa_span_is_empty(part) && (!has_blocks || mfa_walk_find(walk, part) < part.end);
}

/* Where the first tile that is visited begins, of those of SIZE that begin at `first` or behind it, a multiple of SIZE;
   walk.visited.end or more behind the last. */
template <int SIZE> inline mfa_index mfa_walk_next(mfa_walk walk, mfa_index first) {
    const mfa_span rest = mfa_span_cut(walk.visited, mfa_span_of(first, walk.visited.end));
    if (!has_blocks || mfa_span_is_empty(rest))
        return first;
    const mfa_index found = mfa_walk_find(walk, rest);
    return found < rest.end ? found / SIZE * SIZE : rest.end;
}

template <int SIZE> inline mfa_index mfa_walk_first(mfa_walk walk) {
    return mfa_span_is_empty(walk.visited) ? walk.visited.end
                                           : mfa_walk_next<SIZE>(walk, walk.visited.begin / SIZE * SIZE);
}

/* The part of a tile that bounds let be seen, counted from where the tile begins. */
inline mfa_span mfa_walk_part(mfa_walk walk, mfa_index first, int size) {
    return mfa_span_of(max(walk.visited.begin - first, mfa_index(0)), min(walk.visited.end - first, mfa_index(size)));
}

/* Whether each of some rows, all of which exist, sees each of some keys, without a look at masks. */
inline bool mfa_tile_is_whole(mfa_extent extent, mfa_blocks blocks, mfa_span rows, mfa_span keys) {
    return mfa_span_holds(mfa_rule_keys_all_see(extent, rows), keys) &&
           (!has_blocks || mfa_all_blocks_count(blocks, rows, keys));
}

/* Whether causal and window bounds and blocks let a row see a key. */
inline bool mfa_pair_is_visible(mfa_extent extent, mfa_blocks blocks, mfa_index row, mfa_index key) {
    return row < extent.query_count && mfa_span_holds(mfa_rule_keys_of_row(extent, row), mfa_span_of(key, key + 1)) &&
           (!has_blocks || mfa_block_counts(blocks, row, key));
}

#endif

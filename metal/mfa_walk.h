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
    const device mfa_u32 *lines; /* as MFA_BUFFER_BLOCKS has them */
    mfa_index line_stride, words;
    mfa_index rows, keys; /* of a block */
    const device uchar *masks;
    mfa_index mask_stride, mask_row_stride, mask_key_stride;
};

inline mfa_blocks mfa_blocks_of(constant mfa_metal_params &p, mfa_biases biases, mfa_index batch, mfa_index head) {
    mfa_blocks blocks;
    if (has_blocks) {
        blocks.lines = biases.block_words + mfa_place(p.blocks, batch, head, 0);
        blocks.line_stride = p.blocks.row;
        blocks.words = p.block_words;
        blocks.rows = p.block_rows;
        blocks.keys = p.block_keys;
    }
    if (has_block_masks) {
        blocks.masks = biases.block_masks;
        blocks.mask_stride = p.masks.batch;
        blocks.mask_row_stride = p.masks.row;
        blocks.mask_key_stride = p.masks.column;
    }
    return blocks;
}

/* As mfa_span_tiles. */
inline mfa_span mfa_blocks_met(mfa_span span, mfa_index size) {
    const mfa_index first = mfa_quotient(span.begin, size);
    return mfa_span_of(first, mfa_span_is_empty(span) ? first : mfa_quotient(span.end - 1, size) + 1);
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
            bits |= blocks.lines[row * blocks.line_stride + word];
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

/* Whether of all blocks that hold a pair of the rows and keys each pair counts, and no mask is looked at. */
inline bool mfa_blocks_are_whole(mfa_blocks blocks, mfa_span rows, mfa_span keys) {
    const mfa_span across = mfa_blocks_met(rows, blocks.rows), columns = mfa_blocks_met(keys, blocks.keys);
    const mfa_index first = blocks_are_masked ? blocks.words : 0; /* the bits of full ones */
    bool all = true;
    for (mfa_index row = across.begin; row < across.end; ++row)
        for (mfa_index word = columns.begin / MFA_BLOCK_BITS; word * MFA_BLOCK_BITS < columns.end; ++word)
            all = all && (~blocks.lines[row * blocks.line_stride + first + word] & mfa_block_bits(columns, word)) == 0;
    return all;
}

/*
 * What blocks say of the pairs that a lane holds of a tile: one row and several keys, or one key and several rows, of
 * which it has two neighbours of each 8, from `column` on. Their bits follow each other.
 */
struct mfa_lane_pairs {
    uint visible, full; /* full: bool_mask is not looked at */
};

/* Bits of those before a place of the tile. */
inline uint mfa_lane_bits(mfa_index place, int size, int column) {
    const int end = int(max(min(place, mfa_index(size)), mfa_index(0)));
    return (1u << (end / 8 * 2 + max(min(end % 8 - column, 2), 0))) - 1;
}

/* What blocks hide nothing of. */
inline mfa_lane_pairs mfa_whole_pairs() {
    mfa_lane_pairs pairs;
    pairs.visible = pairs.full = ~0u;
    return pairs;
}

/* Of a row and a tile of SIZE keys that begins at `first`, or of a key and a tile of rows, of which `bounds` are those
   that are seen or see, as far as bounds tell. */
template <int SIZE, bool OVER_ROWS>
inline mfa_lane_pairs mfa_lane_pairs_of(mfa_blocks blocks, mfa_index own, mfa_index first, mfa_span bounds,
                                        int column) {
    static_assert(SIZE <= 64, "lanes have bits for their pairs");
    mfa_lane_pairs pairs;
    pairs.visible = pairs.full = 0;
    const mfa_span part = mfa_span_cut(mfa_span_of(0, SIZE), mfa_span_of(bounds.begin - first, bounds.end - first));
    if (mfa_span_is_empty(part))
        return pairs;
    const mfa_index own_size = OVER_ROWS ? blocks.keys : blocks.rows, size = OVER_ROWS ? blocks.rows : blocks.keys;
    const mfa_index own_block = mfa_quotient(own, own_size);
    mfa_index block = mfa_quotient(first + part.begin, size);
    for (mfa_index begin = block * size - first; begin < part.end; begin += size, ++block) {
        uint bits = mfa_lane_bits(min(begin + size, part.end), SIZE, column) &
                    ~mfa_lane_bits(max(begin, part.begin), SIZE, column);
        const mfa_index at = OVER_ROWS ? own_block : block;
        const device mfa_u32 *line = blocks.lines + (OVER_ROWS ? block : own_block) * blocks.line_stride;
        if (bits == 0 || !mfa_rule_bit(line[at / MFA_BLOCK_BITS], at))
            continue;
        if (blocks_are_masked && mfa_rule_bit(line[blocks.words + at / MFA_BLOCK_BITS], at)) {
            pairs.full |= bits;
        } else if (has_block_masks) {
            const mfa_index mask = mfa_index(line[2 * blocks.words + at]) - 1;
            const mfa_index own_stride = OVER_ROWS ? blocks.mask_key_stride : blocks.mask_row_stride;
            const mfa_index stride = OVER_ROWS ? blocks.mask_row_stride : blocks.mask_key_stride;
            const device uchar *places =
                blocks.masks + mask * blocks.mask_stride + (own - own_block * own_size) * own_stride - begin * stride;
            for (int i = 0; i < SIZE / 4 && mask >= 0; ++i)
                if ((bits >> i & 1) != 0 && places[(i / 2 * 8 + column + i % 2) * stride] == 0)
                    bits &= ~(1u << i);
        }
        pairs.visible |= bits;
    }
    return pairs;
}

inline bool mfa_lane_bit(uint bits, int f, int i) { return (bits >> (2 * f + i) & 1) != 0; }

/* ------------------------------------------------------------------ walks */

/* Over tiles of keys, for some rows of a head; or over tiles of rows, for some keys. */
struct mfa_walk {
    bool over_rows;
    mfa_span own, visited; /* of each, those that may see or be seen as far as bounds tell */
    mfa_blocks blocks;
    mfa_span own_blocks; /* rows or columns of blocks */
};

inline mfa_walk mfa_walk_over_keys(mfa_extent extent, mfa_blocks blocks, mfa_span rows) {
    mfa_walk walk;
    walk.over_rows = false;
    walk.own = mfa_span_cut(rows, mfa_span_of(0, extent.query_count));
    walk.visited = mfa_rule_keys_some_see(extent, rows);
    walk.blocks = blocks;
    if (has_blocks)
        walk.own_blocks = mfa_blocks_met(walk.own, blocks.rows);
    return walk;
}

inline mfa_walk mfa_walk_over_rows(mfa_extent extent, mfa_blocks blocks, mfa_span keys) {
    mfa_walk walk;
    walk.over_rows = true;
    walk.own = mfa_span_cut(keys, mfa_span_of(0, extent.key_count));
    walk.visited = mfa_rule_rows_some_see(extent, keys);
    walk.blocks = blocks;
    if (has_blocks)
        walk.own_blocks = mfa_blocks_met(walk.own, blocks.keys);
    return walk;
}

/* The first place of `span`, not empty, in a block that counts for what is owned; span.end or more: there is none. */
inline mfa_index mfa_walk_find(mfa_walk walk, mfa_span span) {
    const mfa_index size = walk.over_rows ? walk.blocks.rows : walk.blocks.keys;
    const mfa_span among = mfa_blocks_met(span, size);
    const mfa_index found = walk.over_rows ? mfa_next_block_row(walk.blocks, among, walk.own_blocks)
                                           : mfa_next_block_column(walk.blocks, walk.own_blocks, among);
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

/* Whether each of some rows, all of which exist, sees each of some keys, without a look at masks; with blocks, whether
   no look is needed but at the additive mask. */
inline bool mfa_tile_is_whole(mfa_extent extent, mfa_blocks blocks, mfa_span rows, mfa_span keys) {
    return mfa_span_holds(mfa_rule_keys_all_see(extent, rows), keys) &&
           (!has_blocks || mfa_blocks_are_whole(blocks, rows, keys));
}

/* Whether causal and window bounds let a row see a key. */
inline bool mfa_pair_is_visible(mfa_extent extent, mfa_index row, mfa_index key) {
    return row < extent.query_count && mfa_span_holds(mfa_rule_keys_of_row(extent, row), mfa_span_of(key, key + 1));
}

#endif

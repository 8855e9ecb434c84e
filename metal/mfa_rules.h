/*
 * Which keys a row of attention sees, which rows see a key, and what is added to scores, written once for every
 * backend: value-only functions in the subset of C that C and the Metal Shading Language share (no pointers, so no
 * address spaces).
 */
#ifndef MFA_RULES_H
#define MFA_RULES_H

#include "mfa_types.h"

/* Numbers from begin to end - 1: rows, keys or tiles. None if end <= begin. */
typedef struct {
    mfa_index begin, end;
} mfa_span;

static inline mfa_span mfa_span_of(mfa_index begin, mfa_index end) {
    mfa_span span;
    span.begin = begin;
    span.end = end;
    return span;
}

static inline bool mfa_span_is_empty(mfa_span span) { return span.end <= span.begin; }

/* What both have. */
static inline mfa_span mfa_span_cut(mfa_span a, mfa_span b) {
    return mfa_span_of(a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end);
}

static inline bool mfa_spans_meet(mfa_span a, mfa_span b) { return !mfa_span_is_empty(mfa_span_cut(a, b)); }

/* Whether `inner`, which is not empty, lies in `outer`. */
static inline bool mfa_span_holds(mfa_span outer, mfa_span inner) {
    return outer.begin <= inner.begin && inner.end <= outer.end;
}

/* The numbers of tiles of `size` that a span, which begins at 0 or later, meets. */
static inline mfa_span mfa_span_tiles(mfa_span span, mfa_index size) {
    return mfa_span_of(span.begin / size, mfa_span_is_empty(span) ? span.begin / size : (span.end - 1) / size + 1);
}

/* One sequence. Row i stands at key i + offset; left and right count the keys on either side of it that it sees;
   negative: unbounded. */
typedef struct {
    mfa_index query_count, key_count;
    mfa_index offset, left, right;
    mfa_index chunk; /* keys come in chunks of so many, and a row sees that of its own place; 0: off */
} mfa_extent;

static inline mfa_index mfa_rule_clamp(mfa_index x, mfa_index most) { return x < 0 ? 0 : x > most ? most : x; }

/* Where the chunk of a place, which may be negative, begins. */
static inline mfa_index mfa_rule_chunk_begin(mfa_index chunk, mfa_index place) {
    return (place >= 0 ? place / chunk : -((-place - 1) / chunk) - 1) * chunk;
}

/* The keys that causal, window and chunk bounds let a row see. */
static inline mfa_span mfa_rule_keys_of_row(mfa_extent e, mfa_index row) {
    const mfa_span keys =
        mfa_span_of(e.left < 0 ? 0 : mfa_rule_clamp(row + e.offset - e.left, e.key_count),
                    e.right < 0 ? e.key_count : mfa_rule_clamp(row + e.offset + e.right + 1, e.key_count));
    if (e.chunk == 0)
        return keys;
    const mfa_index begin = mfa_rule_chunk_begin(e.chunk, row + e.offset);
    return mfa_span_cut(keys,
                        mfa_span_of(mfa_rule_clamp(begin, e.key_count), mfa_rule_clamp(begin + e.chunk, e.key_count)));
}

/* The keys that some of the rows see, and those that lie between. Later rows see later keys. */
static inline mfa_span mfa_rule_keys_some_see(mfa_extent e, mfa_span rows) {
    const mfa_span existing = mfa_span_cut(rows, mfa_span_of(0, e.query_count));
    if (mfa_span_is_empty(existing))
        return mfa_span_of(0, 0);
    return mfa_span_of(mfa_rule_keys_of_row(e, existing.begin).begin, mfa_rule_keys_of_row(e, existing.end - 1).end);
}

/* The keys that each of the rows sees; none if some of them are not there. */
static inline mfa_span mfa_rule_keys_all_see(mfa_extent e, mfa_span rows) {
    if (mfa_span_is_empty(rows) || rows.begin < 0 || rows.end > e.query_count)
        return mfa_span_of(0, 0);
    return mfa_span_of(mfa_rule_keys_of_row(e, rows.end - 1).begin, mfa_rule_keys_of_row(e, rows.begin).end);
}

/* The rows that see some of the keys, and those that lie between. */
static inline mfa_span mfa_rule_rows_some_see(mfa_extent e, mfa_span keys) {
    const mfa_span existing = mfa_span_cut(keys, mfa_span_of(0, e.key_count));
    if (mfa_span_is_empty(existing))
        return mfa_span_of(0, 0);
    const mfa_span rows =
        mfa_span_of(e.right < 0 ? 0 : mfa_rule_clamp(existing.begin - e.offset - e.right, e.query_count),
                    e.left < 0 ? e.query_count : mfa_rule_clamp(existing.end - e.offset + e.left, e.query_count));
    if (e.chunk == 0)
        return rows;
    return mfa_span_cut(rows, mfa_span_of(mfa_rule_chunk_begin(e.chunk, existing.begin) - e.offset,
                                          mfa_rule_chunk_begin(e.chunk, existing.end - 1) + e.chunk - e.offset));
}

/*
 * Blocks. Scores may be cut into blocks of some rows and keys, with a bit for each that is set if any of its scores
 * counts; those of a row of blocks follow each other in words of 32.
 */
enum { MFA_BLOCK_BITS = 32 };

static inline bool mfa_rule_bit(mfa_u32 word, mfa_index block) { return (word >> (block % MFA_BLOCK_BITS) & 1u) != 0; }

/* Times a product of a stored query and a stored key, given their factors, before softcap. */
static inline float mfa_rule_scale(float scale, float query, float key) { return scale * (query * key); }

static inline float mfa_rule_alibi(float slope, mfa_index row, mfa_index offset, mfa_index key) {
    mfa_index distance = row + offset - key;
    return -slope * (float)(distance < 0 ? -distance : distance);
}

#endif

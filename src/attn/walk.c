#include "attn/walk.h"

/* The bits of one row of blocks. */
static const uint32_t *words_of(const mfai_walk_t *walk, int64_t head, int64_t block_row) {
    const mfai_view_t *bits = &walk->problem->blocks;
    return (const uint32_t *)bits->data + walk->batch * bits->stride[0] + head * bits->stride[1] +
           block_row * bits->stride[2];
}

/* The first block from `first` on whose bit is set, or `end`. */
static int64_t next_set(const uint32_t *words, int64_t first, int64_t end) {
    while (first < end) {
        const uint32_t word = words[first / MFA_BLOCK_BITS] >> first % MFA_BLOCK_BITS;
        if (word != 0) {
            const int64_t found = first + __builtin_ctz(word);
            return found < end ? found : end;
        }
        first = (first / MFA_BLOCK_BITS + 1) * MFA_BLOCK_BITS;
    }
    return end;
}

/* As next_set, where any of the heads and of these rows of blocks has a bit. */
static int64_t next_visible(const mfai_walk_t *walk, mfa_span block_rows, int64_t first, int64_t end) {
    const int64_t heads_end = walk->problem->blocks.stride[1] == 0 ? walk->heads.begin + 1 : walk->heads.end;
    for (int64_t head = walk->heads.begin; head < heads_end && first < end; ++head)
        for (int64_t row = block_rows.begin; row < block_rows.end && first < end; ++row)
            end = next_set(words_of(walk, head, row), first, end);
    return end;
}

mfa_span mfai_walk_next(const mfai_walk_t *walk, mfa_span rows, mfa_span among, int64_t most) {
    const mfai_problem_t *p = walk->problem;
    mfa_span run = mfa_span_cut(mfa_rule_keys_some_see(walk->extent, rows), among);
    if (!mfa_span_is_empty(run) && p->features & MFAI_BLOCKS) {
        const mfa_span existing = mfa_span_cut(rows, mfa_span_of(0, walk->extent.query_count));
        const mfa_span block_rows = mfa_span_tiles(existing, p->block_rows);
        const mfa_span blocks = mfa_span_tiles(run, p->block_keys);
        int64_t next = next_visible(walk, block_rows, blocks.begin, blocks.end), end = next;
        if (next * p->block_keys > run.begin)
            run.begin = next * p->block_keys;
        /* From one visible block to the next, while no more than a small hole lies between. */
        while (next < blocks.end && (next - end) * p->block_keys < MFAI_WALK_LEAST_HOLE &&
               next * p->block_keys - run.begin < most) {
            end = next + 1;
            next = next_visible(walk, block_rows, end, blocks.end);
        }
        run = mfa_span_cut(run, mfa_span_of(run.begin, end * p->block_keys));
    }
    if (run.end - run.begin > most)
        run.end = run.begin + most;
    return run;
}

bool mfai_walk_visits(const mfai_walk_t *walk, mfa_span rows, mfa_span keys) {
    return !mfa_span_is_empty(mfai_walk_next(walk, rows, keys, 1));
}

int64_t mfai_walk_before(const mfai_walk_t *walk, mfa_span rows, int64_t tile, int64_t size) {
    const int64_t first = mfa_rule_keys_some_see(walk->extent, rows).begin / size;
    do
        --tile;
    while (tile >= first && !mfai_walk_visits(walk, rows, mfa_span_of(tile * size, (tile + 1) * size)));
    return tile >= first ? tile : -1;
}

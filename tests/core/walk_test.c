/* Walks with holes and without, against a look at every pair. */
#include "attn/walk.h"

#include "check.h"
#include "naive.h"

enum { HEADS = 2, MOST = 70 };
static uint32_t bits[HEADS * MOST * 3];

static bool sees(const mfai_problem_t *p, int64_t head, int64_t row, int64_t key) {
    const mfa_span keys = mfa_rule_keys_of_row(mfai_extent_of(p, 0), row);
    const int64_t block = key / p->block_keys;
    const uint32_t word =
        bits[head * p->blocks.stride[1] + row / p->block_rows * p->blocks.stride[2] + block / MFA_BLOCK_BITS];
    return key >= keys.begin && key < keys.end && (!(p->features & MFAI_BLOCKS) || mfa_rule_bit(word, block));
}

static bool any_sees(const mfai_problem_t *p, mfa_span heads, mfa_span rows, mfa_span keys) {
    for (int64_t head = heads.begin; head < heads.end; ++head)
        for (int64_t row = rows.begin; row < rows.end && row < p->query_count; ++row)
            for (int64_t key = keys.begin; key < keys.end && key < p->key_count; ++key)
                if (sees(p, head, row, key))
                    return true;
    return false;
}

/* Runs come in order, hold every visible key, and without bounds neither begin nor end with a hidden one nor have a
   large hole. */
static void check_runs(const mfai_walk_t *walk, mfa_span rows, int64_t most) {
    const mfai_problem_t *p = walk->problem;
    const bool bounded = p->window_left >= 0 || p->window_right >= 0 || p->chunk > 0;
    int64_t at = 0;
    for (;;) {
        const mfa_span run = mfai_walk_next(walk, rows, mfa_span_of(at, p->key_count), most);
        const bool ended = mfa_span_is_empty(run);
        CHECK(!any_sees(p, walk->heads, rows, mfa_span_of(at, ended ? p->key_count : run.begin)));
        if (ended)
            break;
        CHECK(run.begin >= at && run.end <= p->key_count && run.end - run.begin <= most);
        int64_t hole = MFAI_WALK_LEAST_HOLE; /* none before it */
        for (int64_t key = run.begin; key < run.end && !bounded; ++key) {
            hole = any_sees(p, walk->heads, rows, mfa_span_of(key, key + 1)) ? 0 : hole + 1;
            CHECK(hole < MFAI_WALK_LEAST_HOLE);
        }
        CHECK(bounded || hole == 0 || run.end - run.begin == most);
        at = run.end;
    }
}

static void check_tiles(const mfai_walk_t *walk, mfa_span rows, int64_t size) {
    const mfai_problem_t *p = walk->problem;
    int64_t before = -1;
    for (int64_t tile = 0; tile * size < p->key_count; ++tile) {
        const mfa_span keys = mfa_span_of(tile * size, (tile + 1) * size);
        CHECK(mfai_walk_before(walk, rows, tile, size) == before);
        const bool visits = mfai_walk_visits(walk, rows, keys);
        CHECK(visits || !any_sees(p, walk->heads, rows, keys));
        before = visits ? tile : before;
    }
}

static void check_problem(int64_t queries, int64_t keys, int64_t block_rows, int64_t block_keys, bool has_blocks) {
    mfai_problem_t p = {.query_count = queries, .key_count = keys, .window_left = -1, .window_right = -1};
    p.blocks.data = (char *)bits;
    p.blocks.present = has_blocks;
    p.blocks.stride[2] = (keys / block_keys) / MFA_BLOCK_BITS + 1;
    p.blocks.stride[1] = p.blocks.stride[2] * (queries / block_rows + 1);
    mfai_problem_find_features(&p);
    p.block_rows = block_rows;
    p.block_keys = block_keys;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; ++i)
        bits[i] = rand() % 2 ? 0 : (uint32_t)rand() & (uint32_t)rand();
    for (int bounds = 0; bounds < 4; ++bounds) {
        p.window_right = bounds > 0 ? 0 : -1;
        p.window_left = bounds == 2 ? 3 : -1;
        p.is_bottom_right = bounds > 1;
        p.chunk = bounds > 2 ? 10 : 0;
        for (int64_t heads = 1; heads <= HEADS; ++heads) {
            const mfai_walk_t walk = mfai_walk_of(&p, 0, mfa_span_of(heads - 1, HEADS));
            for (int64_t row = 0; row < queries; row += 7)
                for (int64_t size = 1; size < 40; size += 11) {
                    const mfa_span rows = mfa_span_of(row, row + size);
                    check_runs(&walk, rows, 1);
                    check_runs(&walk, rows, 32);
                    check_tiles(&walk, rows, size);
                }
        }
    }
}

int main(void) {
    for (int has_blocks = 0; has_blocks < 2; ++has_blocks)
        for (int i = 0; i < 8; ++i) {
            static const int64_t sizes[][4] = {{1, 1, 1, 1},    {40, 69, 1, 1}, {33, 40, 16, 3}, {69, 65, 8, 32},
                                               {20, 69, 64, 7}, {13, 0, 4, 4},  {40, 70, 5, 8},  {20, 200, 4, 40}};
            check_problem(sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3], has_blocks);
        }
    return check_report();
}

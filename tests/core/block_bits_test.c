/* The bits and tile numbers that lists of blocks come to, against the lists. */
#include <stdlib.h>

#include "attn/blocks.h"
#include "check.h"

enum { B = 2, H = 3, TILES = 5, NOBODY_LOOKS = 1 << 30 };

typedef struct {
    int64_t lines, columns;
    bool per_batch, per_head;
    bool full, tiles, masked, dense;
} shape_t;

static mfai_view_t view_of(int32_t format, const shape_t *s, int64_t elements) {
    const int64_t batch = s->per_batch ? B : 1, heads = s->per_head ? H : 1, size = format == MFAI_FORMAT_BOOL ? 1 : 4;
    return (mfai_view_t){
        .present = true,
        .format = format,
        .data = calloc((size_t)(batch * heads * s->lines * elements + 1), (size_t)size),
        .shape = {batch, heads, s->lines, elements},
        .stride = {s->per_batch ? heads * s->lines * elements : 0, s->per_head ? s->lines * elements : 0, elements, 1}};
}

static int32_t *at(const mfai_view_t *view, int64_t b, int64_t h, int64_t line, int64_t i) {
    return (int32_t *)(void *)view->data + b % view->shape[0] * view->stride[0] + h % view->shape[1] * view->stride[1] +
           line * view->stride[2] + i;
}

/* Lists or bools at random; `kind` and `tile` get what they say of each block. */
static mfai_problem_t make_problem(const shape_t *s, mfai_block_kind_t *kind, int32_t *tile) {
    mfai_problem_t p = {.batch = B, .heads = H, .kv_heads = H, .group = 1, .block_rows = 4, .block_keys = 8};
    p.query_count = s->lines * 4 - (s->lines > 0);
    p.key_count = s->columns * 8 - (s->columns > 0);
    p.bool_mask.present = s->masked;
    if (s->dense)
        p.block_mask = view_of(MFAI_FORMAT_BOOL, s, s->columns);
    else {
        p.kv_num_blocks = view_of(MFAI_FORMAT_INT32, s, 1);
        p.kv_indices = view_of(MFAI_FORMAT_INT32, s, s->columns);
    }
    if (s->full) {
        p.full_kv_num_blocks = view_of(MFAI_FORMAT_INT32, s, 1);
        p.full_kv_indices = view_of(MFAI_FORMAT_INT32, s, s->columns);
    }
    if (s->tiles) {
        p.masks.present = true;
        p.mask_indices = view_of(MFAI_FORMAT_INT32, s, s->columns);
    }
    const int64_t batch = s->per_batch ? B : 1, heads = s->per_head ? H : 1;
    for (int64_t i = 0; i < batch * heads * s->lines; ++i) {
        const int64_t b = i / s->lines / heads, h = i / s->lines % heads, line = i % s->lines;
        for (int64_t c = 0; c < s->columns; ++c) {
            if (!s->dense)
                *at(&p.kv_indices, b, h, line, c) = NOBODY_LOOKS;
            if (s->full)
                *at(&p.full_kv_indices, b, h, line, c) = NOBODY_LOOKS;
        }
        for (int64_t block = 0; block < s->columns; ++block) {
            const int64_t number = i * s->columns + block;
            kind[number] = MFAI_BLOCK_HIDDEN;
            tile[number] = -1;
            if (rand() % 3 == 0)
                continue;
            if (s->dense) {
                p.block_mask.data[number] = 1;
                kind[number] = MFAI_BLOCK_PARTIAL;
            } else if (s->full && rand() % 2) {
                *at(&p.full_kv_indices, b, h, line, (*at(&p.full_kv_num_blocks, b, h, line, 0))++) = (int32_t)block;
                kind[number] = MFAI_BLOCK_FULL;
            } else {
                const int32_t listed = (*at(&p.kv_num_blocks, b, h, line, 0))++;
                *at(&p.kv_indices, b, h, line, listed) = (int32_t)block;
                kind[number] = MFAI_BLOCK_PARTIAL;
                if (s->tiles)
                    *at(&p.mask_indices, b, h, line, listed) = tile[number] = rand() % (TILES + 1) - 1;
            }
            /* Without masks there is nothing to look at. */
            if (!s->masked && !s->tiles)
                kind[number] = MFAI_BLOCK_FULL;
        }
    }
    return p;
}

static void test_shape(const shape_t *s) {
    const size_t most = (size_t)(B * H * s->lines * s->columns + 1);
    mfai_block_kind_t *kind = malloc(most * sizeof *kind);
    int32_t *tile = malloc(most * sizeof *tile);
    mfai_problem_t p = make_problem(s, kind, tile);
    CHECK(s->lines * s->columns == 0 || mfai_blocks_differ(&p, 0) == s->per_batch);
    CHECK(s->lines * s->columns == 0 || mfai_blocks_differ(&p, 1) == s->per_head);
    const int64_t bytes = mfai_blocks_bytes(&p);
    char *memory = malloc((size_t)bytes + 1);
    memset(memory, 0xa5, (size_t)bytes + 1);
    memory[bytes] = 42;
    const int64_t lines = mfai_blocks_place(&p, memory);
    for (int64_t i = lines; i > 0; i -= 3) /* in any order, and some at a time */
        mfai_blocks_fill(&p, mfa_span_of(i > 3 ? i - 3 : 0, i));
    CHECK(memory[bytes] == 42);
    for (int64_t b = 0; b < B; ++b)
        for (int64_t h = 0; h < H; ++h)
            for (int64_t line = 0; line < s->lines; ++line) {
                const mfai_block_line_t found = mfai_block_line(&p, b, h, line);
                const int64_t heads = s->per_head ? H : 1;
                const int64_t first = ((s->per_batch ? b : 0) * heads + (s->per_head ? h : 0)) * s->lines + line;
                bool full = true;
                for (int64_t c = 0; c < s->columns; ++c) {
                    const int64_t number = first * s->columns + c;
                    CHECK(mfai_block_kind(&found, c) == kind[number]);
                    if (kind[number] == MFAI_BLOCK_PARTIAL)
                        CHECK(mfai_block_tile(&found, c) == tile[number]);
                    full = full && kind[number] == MFAI_BLOCK_FULL;
                    CHECK(mfai_blocks_are_full(&found, mfa_span_of(0, c + 1)) == full);
                }
            }
    mfai_view_t *const views[] = {&p.kv_num_blocks,   &p.kv_indices, &p.full_kv_num_blocks,
                                  &p.full_kv_indices, &p.block_mask, &p.mask_indices};
    for (size_t i = 0; i < sizeof views / sizeof *views; ++i)
        free(views[i]->data);
    free(kind), free(tile), free(memory);
}

/* Lists that repeat may stand for more bits than there is memory. */
static void test_overflow(void) {
    int32_t none = 0;
    mfai_problem_t p = {.batch = INT64_MAX / 16, .heads = 1, .query_count = 64, .key_count = 64};
    p.block_rows = p.block_keys = 1;
    p.kv_num_blocks = p.kv_indices = (mfai_view_t){.present = true,
                                                   .format = MFAI_FORMAT_INT32,
                                                   .data = (char *)&none,
                                                   .shape = {p.batch, 1, 64, 1},
                                                   .stride = {1, 0, 0, 0}};
    CHECK(mfai_blocks_bytes(&p) == -1);
}

int main(void) {
    for (unsigned bits = 0; bits < 1u << 5; ++bits) {
        static const int64_t sizes[][2] = {{1, 1}, {5, 31}, {4, 32}, {3, 33}, {7, 100}, {0, 4}, {4, 0}};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
            shape_t s = {.lines = sizes[i][0], .columns = sizes[i][1]};
            s.per_batch = bits & 1, s.per_head = bits & 2, s.full = bits & 4, s.tiles = bits & 8;
            s.masked = bits & 16;
            test_shape(&s);
            s.dense = !s.full && !s.tiles;
            test_shape(&s);
        }
    }
    test_overflow();
    return check_report();
}

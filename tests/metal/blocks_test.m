/*
 * Blocks of scores that do not count, forward and backward: the results of the mask that says the same, and no multiply
 * and no byte for a tile that nobody sees.
 */
#import <Metal/Metal.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "core/context.h"
#include "core/integers.h"
#include "core/operands.h"
#include "emulator.h"
#include "metal/device.h"
#include "metal/tiles.h"
#include "mfa_params.h"
#include "naive.h"

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, KEYS = 150, HEAD_DIM = 16, MOST_QUERIES = 70 };
enum { MOST_SCORES = BATCH * HEADS * MOST_QUERIES * KEYS };
enum { ROWS = BATCH * HEADS * MOST_QUERIES, KEY_ROWS = BATCH * KV_HEADS * KEYS, MOST_WORDS = ROWS * (KEYS / 32 + 1) };

typedef enum { RANDOM, EMPTY, STRIPES, ONLY_LAST, PATTERNS } pattern_t;

typedef struct {
    int64_t queries, block_rows, block_keys;
    bool shared; /* by batches and heads */
    bool causal;
    int64_t window_left;
    pattern_t pattern;
} case_t;

/* Of operands that counters tell apart: they lie on pages of their own. */
#define ON_PAGES __attribute__((aligned(EMU_PAGE_SIZE)))

/* Operands and results, (batch, heads, rows, columns) without gaps. */
typedef struct {
    ON_PAGES float query[ROWS * HEAD_DIM];
    ON_PAGES float key[KEY_ROWS * HEAD_DIM];
    ON_PAGES float value[KEY_ROWS * HEAD_DIM];
    ON_PAGES float dout[ROWS * HEAD_DIM];
    ON_PAGES uint8_t mask[MOST_SCORES];
    ON_PAGES float additive[MOST_SCORES];
    ON_PAGES uint32_t words[MOST_WORDS];
} inputs_t;

typedef struct {
    float out[ROWS * HEAD_DIM], logsumexp[ROWS];
    float dquery[ROWS * HEAD_DIM], dkey[KEY_ROWS * HEAD_DIM], dvalue[KEY_ROWS * HEAD_DIM], dbias[MOST_SCORES];
} results_t;

/* How a call is told what to hide. */
typedef enum { BY_MASK, BY_BLOCKS_BESIDE_A_MASK, BY_BLOCKS } way_t;

static mfa_tensor_t tensor(void *data, int64_t heads, int64_t rows, int64_t columns) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {BATCH, heads, rows, columns};
    const int64_t stride[4] = {heads * rows * columns, rows * columns, columns, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.data = data;
    return t;
}

/* ------------------------------------------------------------------ what is hidden */

static int64_t words_of(void) { return KEYS / MFA_BLOCK_BITS + 1; } /* at least, for any size of block */

static bool block_counts(const case_t *c, int64_t number, int64_t row, int64_t column) {
    switch (c->pattern) {
    case RANDOM:
        return (number * 7919 + row * 104729 + column * 1299709) % 11 < 4;
    case STRIPES:
        return column % 3 == 1;
    case ONLY_LAST:
        return row == (c->queries - 1) / c->block_rows && column == (KEYS - 1) / c->block_keys;
    default:
        return false;
    }
}

static bool counts(const case_t *c, int64_t batch, int64_t head, int64_t row, int64_t key) {
    return block_counts(c, c->shared ? 0 : batch * HEADS + head, row / c->block_rows, key / c->block_keys);
}

static void fill_words(const case_t *c, uint32_t *words) {
    const int64_t block_rows = mfai_ceil_div(c->queries, c->block_rows);
    memset(words, 0, sizeof(uint32_t[MOST_WORDS]));
    for (int64_t number = 0; number < (c->shared ? 1 : BATCH * HEADS); ++number)
        for (int64_t row = 0; row < block_rows; ++row)
            for (int64_t column = 0; column < mfai_ceil_div(KEYS, c->block_keys); ++column)
                if (block_counts(c, number, row, column))
                    words[(number * block_rows + row) * words_of() + column / MFA_BLOCK_BITS] |=
                        1u << column % MFA_BLOCK_BITS;
}

static mfai_view_t view_blocks(const case_t *c, uint32_t *words) {
    const int64_t block_rows = mfai_ceil_div(c->queries, c->block_rows), head = block_rows * words_of();
    return (mfai_view_t){
        .present = true,
        .format = MFAI_FORMAT_UINT32,
        .data = (char *)words,
        .shape = {c->shared ? 1 : BATCH, c->shared ? 1 : HEADS, block_rows, words_of()},
        .stride = {c->shared ? 0 : HEADS * head, c->shared ? 0 : head, words_of(), 1},
    };
}

/* Keys and values that no row sees become `unseen`. */
static void fill(const case_t *c, float unseen, inputs_t *in) {
    fill_words(c, in->words);
    for (int64_t batch = 0; batch < BATCH; ++batch)
        for (int64_t kv_head = 0; kv_head < KV_HEADS; ++kv_head)
            for (int64_t key = 0; key < KEYS; ++key) {
                bool seen = false;
                for (int64_t head = 2 * kv_head; head < 2 * kv_head + 2; ++head)
                    for (int64_t row = 0; row < c->queries; ++row)
                        seen = seen || counts(c, batch, head, row, key);
                const int64_t first = ((batch * KV_HEADS + kv_head) * KEYS + key) * HEAD_DIM;
                for (int64_t i = first; i < first + HEAD_DIM; ++i) {
                    in->key[i] = seen ? random_float() : unseen;
                    in->value[i] = seen ? random_float() : unseen;
                }
            }
    for (int64_t i = 0; i < ROWS * HEAD_DIM; ++i) {
        in->query[i] = random_float();
        in->dout[i] = random_float();
    }
}

/* ------------------------------------------------------------------ calls */

static void fill_mask(const case_t *c, way_t way, uint8_t *mask) {
    for (int64_t batch = 0; batch < BATCH; ++batch)
        for (int64_t head = 0; head < HEADS; ++head)
            for (int64_t row = 0; row < c->queries; ++row)
                for (int64_t key = 0; key < KEYS; ++key)
                    *mask++ = way != BY_MASK || counts(c, batch, head, row, key);
}

static void run_pass(mfa_context_t context, const case_t *c, way_t way, mfai_pass_t pass, const void *desc,
                     inputs_t *in) {
    mfai_problem_t problem;
    double seconds;
    mfa_status_t status = mfai_problem_import(context, pass, desc, &problem);
    if (way != BY_MASK) {
        problem.blocks = view_blocks(c, in->words);
        problem.block_rows = c->block_rows;
        problem.block_keys = c->block_keys;
        mfai_problem_find_features(&problem);
    }
    if (status == MFA_SUCCESS)
        status = context->backend->run(context->device, &problem, &seconds);
    CHECK(status == MFA_SUCCESS);
    if (status != MFA_SUCCESS)
        fprintf(stderr, "%s\n", mfa_last_error_message(NULL));
}

static void run(mfa_context_t context, const case_t *c, way_t way, mfai_pass_t pass, inputs_t *in, results_t *to) {
    mfa_tensor_t query = tensor(in->query, HEADS, c->queries, HEAD_DIM),
                 key = tensor(in->key, KV_HEADS, KEYS, HEAD_DIM);
    mfa_tensor_t value = tensor(in->value, KV_HEADS, KEYS, HEAD_DIM),
                 out = tensor(to->out, HEADS, c->queries, HEAD_DIM);
    mfa_tensor_t logsumexp = tensor(to->logsumexp, HEADS, c->queries, 1);
    mfa_tensor_t mask = tensor(in->mask, HEADS, c->queries, KEYS);
    mfa_tensor_t additive = tensor(in->additive, HEADS, c->queries, KEYS);
    mask.precision = MFA_PRECISION_BOOL;
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = &query;
    forward.key = &key;
    forward.value = &value;
    forward.out = &out;
    forward.logsumexp = &logsumexp;
    forward.flags = c->causal ? MFA_ATTENTION_CAUSAL : 0;
    forward.window_left = c->window_left;
    forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    if (way != BY_BLOCKS) {
        fill_mask(c, way, in->mask);
        forward.bool_mask = &mask;
        forward.additive_mask = &additive;
    }
    if (pass == MFAI_FORWARD) {
        run_pass(context, c, way, pass, &forward, in);
        return;
    }
    mfa_tensor_t dout = tensor(in->dout, HEADS, c->queries, HEAD_DIM);
    mfa_tensor_t dquery = tensor(to->dquery, HEADS, c->queries, HEAD_DIM);
    mfa_tensor_t dkey = tensor(to->dkey, KV_HEADS, KEYS, HEAD_DIM);
    mfa_tensor_t dvalue = tensor(to->dvalue, KV_HEADS, KEYS, HEAD_DIM);
    mfa_tensor_t dbias = tensor(to->dbias, HEADS, c->queries, KEYS);
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &dout;
    backward.dquery = &dquery;
    backward.dkey = &dkey;
    backward.dvalue = &dvalue;
    backward.dbias = way != BY_BLOCKS ? &dbias : NULL;
    run_pass(context, c, way, pass, &backward, in);
}

/* ------------------------------------------------------------------ results */

static float distance(const results_t *a, const results_t *b) {
    const float *x = (const float *)a, *y = (const float *)b;
    float most = 0;
    for (size_t i = 0; i < offsetof(results_t, dbias) / sizeof(float); ++i)
        most = x[i] == y[i] ? most : fmaxf(most, isfinite(x[i] - y[i]) ? fabsf(x[i] - y[i]) : INFINITY);
    return most;
}

static bool is_sound(const results_t *r) {
    for (size_t i = 0; i < sizeof r->out / sizeof(float); ++i)
        if (!isfinite(r->out[i]))
            return false;
    for (size_t i = 0; i < sizeof r->dkey / sizeof(float); ++i)
        if (!isfinite(r->dkey[i]) || !isfinite(r->dvalue[i]))
            return false;
    return true;
}

static void check_results(mfa_context_t context, const case_t *c, inputs_t *in) {
    results_t *r[3];
    fill(c, NAN, in);
    for (int way = BY_MASK; way <= BY_BLOCKS; ++way) {
        r[way] = calloc(1, sizeof *r[way]);
        for (int pass = MFAI_FORWARD; pass <= MFAI_BACKWARD; ++pass)
            run(context, c, (way_t)way, (mfai_pass_t)pass, in, r[way]);
    }
    CHECK(memcmp(r[BY_MASK], r[BY_BLOCKS_BESIDE_A_MASK], sizeof *r[0]) == 0);
    CHECK(distance(r[BY_MASK], r[BY_BLOCKS]) < 1e-5f); /* scores in other units */
    CHECK(is_sound(r[BY_BLOCKS]));
    for (int way = BY_MASK; way <= BY_BLOCKS; ++way)
        free(r[way]);
}

/* ------------------------------------------------------------------ costs */

/* Visited tiles of one pass, and rows in them that are staged. */
typedef struct {
    uint64_t tiles, rows;
} visits_t;

static bool any_counts(const case_t *c, int64_t batch, int64_t head, mfa_span rows, mfa_span keys) {
    for (int64_t row = rows.begin; row < rows.end && row < c->queries; ++row)
        for (int64_t key = keys.begin; key < keys.end && key < KEYS; ++key)
            if (counts(c, batch, head, row, key))
                return true;
    return false;
}

static visits_t count_visits(const case_t *c, int64_t tile_rows, int64_t tile_keys, bool over_rows) {
    visits_t found = {0};
    for (int64_t batch = 0; batch < BATCH; ++batch)
        for (int64_t head = 0; head < HEADS; ++head)
            for (int64_t row = 0; row < c->queries; row += tile_rows)
                for (int64_t key = 0; key < KEYS; key += tile_keys)
                    if (any_counts(c, batch, head, mfa_span_of(row, row + tile_rows),
                                   mfa_span_of(key, key + tile_keys))) {
                        const int64_t left = over_rows ? c->queries - row : KEYS - key;
                        const int64_t size = over_rows ? tile_rows : tile_keys;
                        ++found.tiles;
                        found.rows += (uint64_t)(left < size ? left : size);
                    }
    return found;
}

static mfai_metal_tile_t tile_of(mfa_context_t context, mfai_metal_pass_t pass) {
    const mfai_metal_device_t *device = context->device;
    return mfai_metal_tile(pass, device->family, sizeof(float), HEAD_DIM, HEAD_DIM);
}

static emu_counters count(mfa_context_t context, const case_t *c, mfai_pass_t pass, inputs_t *in, results_t *r) {
    emu_counters counted;
    emu_counters_reset();
    run(context, c, BY_BLOCKS, pass, in, r);
    emu_counters_read(&counted);
    return counted;
}

enum { ROW_BYTES = HEAD_DIM * sizeof(float), DEPTH = HEAD_DIM / 8 };

/* Without bounds, so that blocks alone decide. `context` runs checked kernels. */
static void check_costs(mfa_context_t context, const case_t *c, inputs_t *in) {
    results_t *r = calloc(1, sizeof *r);
    fill(c, 0, in);
    const emu_counters forward = count(context, c, MFAI_FORWARD, in, r);
    const mfai_metal_tile_t tile = tile_of(context, MFAI_METAL_FORWARD);
    const uint64_t staged = count_visits(c, tile.rows, tile.keys, false).rows * ROW_BYTES;
    const uint64_t visits = count_visits(c, tile.rows / tile.simdgroups, tile.keys, false).tiles;
    CHECK(forward.buffer_bytes_loaded[MFA_BUFFER_KEY] == staged);
    CHECK(forward.buffer_bytes_loaded[MFA_BUFFER_VALUE] == staged);
    CHECK(forward.matrix_multiplies ==
          visits * 2 * (uint64_t)(tile.rows / tile.simdgroups / 8 * tile.keys / 8) * DEPTH);

    const emu_counters backward = count(context, c, MFAI_BACKWARD, in, r);
    const mfai_metal_tile_t by_query = tile_of(context, MFAI_METAL_BACKWARD_QUERY);
    const mfai_metal_tile_t by_key = tile_of(context, MFAI_METAL_BACKWARD_KEY);
    CHECK(by_query.resident && by_key.resident); /* else owned rows are read for each tile */
    const uint64_t keys = count_visits(c, by_query.rows, by_query.keys, false).rows + KEY_ROWS;
    const uint64_t queries = (uint64_t)(BATCH * HEADS * c->queries);
    const uint64_t rows = count_visits(c, by_key.rows, by_key.keys, true).rows + queries;
    CHECK(backward.buffer_bytes_loaded[MFA_BUFFER_KEY] == keys * ROW_BYTES);
    CHECK(backward.buffer_bytes_loaded[MFA_BUFFER_VALUE] == keys * ROW_BYTES);
    CHECK(backward.buffer_bytes_loaded[MFA_BUFFER_QUERY] == rows * ROW_BYTES);
    CHECK(backward.buffer_bytes_loaded[MFA_BUFFER_DOUT] == (rows + queries) * ROW_BYTES); /* for delta, too */
    CHECK(backward.matrix_multiplies ==
          (count_visits(c, 8, by_query.keys, false).tiles * 3 * (uint64_t)(by_query.keys / 8) +
           count_visits(c, by_key.rows, 8, true).tiles * 4 * (uint64_t)(by_key.rows / 8)) *
              DEPTH);
    free(r);
}

/* Simdgroups take tiles on their own, for all the heads that share a key/value head. */
static void check_decode_costs(mfa_context_t context, const case_t *c, inputs_t *in) {
    results_t *r = calloc(1, sizeof *r);
    fill(c, 0, in);
    const emu_counters counted = count(context, c, MFAI_FORWARD, in, r);
    const mfai_metal_tile_t tile = tile_of(context, MFAI_METAL_DECODE);
    uint64_t tiles = 0, rows = 0;
    for (int64_t batch = 0; batch < BATCH; ++batch)
        for (int64_t kv_head = 0; kv_head < KV_HEADS; ++kv_head)
            for (int64_t key = 0; key < KEYS; key += tile.keys) {
                bool seen = false;
                for (int64_t head = 2 * kv_head; head < 2 * kv_head + 2; ++head)
                    seen = seen ||
                           any_counts(c, batch, head, mfa_span_of(0, c->queries), mfa_span_of(key, key + tile.keys));
                tiles += seen;
                rows += seen ? (uint64_t)(KEYS - key < tile.keys ? KEYS - key : tile.keys) : 0;
            }
    CHECK(2 * c->queries <= tile.rows); /* one tile of rows */
    CHECK(counted.buffer_bytes_loaded[MFA_BUFFER_KEY] == rows * ROW_BYTES);
    CHECK(counted.buffer_bytes_loaded[MFA_BUFFER_VALUE] == rows * ROW_BYTES);
    CHECK(counted.matrix_multiplies == tiles * 2 * (uint64_t)(tile.keys / 8) * DEPTH);
    free(r);
}

/* ------------------------------------------------------------------ all cases */

static mfa_context_t open_context(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    mfa_context_t context = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    return context;
}

static const int64_t sizes[][3] = {
    /* queries, rows and keys of a block: of whole tiles, of parts of them, of what divides nothing; decoded */
    {MOST_QUERIES, 64, 32}, {MOST_QUERIES, 8, 16}, {MOST_QUERIES, 5, 7}, {MOST_QUERIES, 1, 1}, {3, 64, 32}, {3, 1, 3}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static case_t case_of(int size, int pattern, bool shared) {
    return (case_t){.queries = sizes[size][0],
                    .block_rows = sizes[size][1],
                    .block_keys = sizes[size][2],
                    .shared = shared,
                    .window_left = -1,
                    .pattern = (pattern_t)pattern};
}

int main(void) {
    inputs_t *in = aligned_alloc(EMU_PAGE_SIZE, sizeof *in);
    memset(in, 0, sizeof *in);
    mfa_context_t context = open_context();
    for (int size = 0; size < SIZES; ++size)
        for (int pattern = 0; pattern < PATTERNS; ++pattern) {
            case_t c = case_of(size, pattern, pattern == STRIPES);
            check_results(context, &c, in);
            c.causal = true;
            check_results(context, &c, in);
            c.window_left = 40;
            c.shared = !c.shared;
            check_results(context, &c, in);
        }
    mfa_destroy_context(context);

    setenv("METAL_EMULATOR_MODE", "checked", 1); /* counts bytes */
    context = open_context();
    for (int size = 0; size < SIZES; ++size)
        for (int pattern = 0; pattern < PATTERNS; ++pattern) {
            const case_t c = case_of(size, pattern, false);
            if (c.queries <= MFAI_METAL_DECODE_QUERIES)
                check_decode_costs(context, &c, in);
            else
                check_costs(context, &c, in);
        }
    mfa_destroy_context(context);
    free(in);
    return check_report();
}

/*
 * Blocks of scores that do not count, forward and backward: the results of the mask that says the same, and no multiply
 * and no byte for a tile that nobody sees. Lists that nobody could check do no harm.
 */
#import <Metal/Metal.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "core/context.h"
#include "core/integers.h"
#include "emulator.h"
#include "metal/device.h"
#include "metal/tiles.h"
#include "mfa_params.h"
#include "naive.h"

enum { BATCH = 2, HEADS = 4, KV_HEADS = 2, KEYS = 150, HEAD_DIM = 16, MOST_QUERIES = 70 };
enum { MOST_SCORES = BATCH * HEADS * MOST_QUERIES * KEYS };
enum { ROWS = BATCH * HEADS * MOST_QUERIES, KEY_ROWS = BATCH * KV_HEADS * KEYS };
enum { MASKS = 3, MOST_MASK = 128 * 128, SLACK = 2 /* entries of a list that are never used */ };
enum { MOST_LISTED = ROWS * (KEYS + SLACK) };

typedef enum { RANDOM, EMPTY, STRIPES, ONLY_LAST, PATTERNS } pattern_t;
typedef enum { HIDDEN, PARTIAL, FULL } kind_t;

typedef struct {
    int64_t queries, block_rows, block_keys;
    bool own_batches, own_heads; /* have blocks of their own */
    bool causal;
    int64_t window_left;
    bool biased; /* there is all that has to do with scores */
    pattern_t pattern;
} case_t;

/* Of operands that counters tell apart: they lie on pages of their own. */
#define ON_PAGES __attribute__((aligned(EMU_PAGE_SIZE)))

/* Blocks that count, in lists and in a table, and the masks of some. */
typedef struct {
    ON_PAGES int32_t kv_num_blocks[ROWS];
    ON_PAGES int32_t kv_indices[MOST_LISTED];
    ON_PAGES int32_t full_kv_num_blocks[ROWS];
    ON_PAGES int32_t full_kv_indices[MOST_LISTED];
    ON_PAGES int32_t mask_indices[MOST_LISTED];
    ON_PAGES uint8_t table[ROWS * KEYS];
    ON_PAGES uint8_t masks[MASKS * MOST_MASK];
} lists_t;

/* Operands and results, (batch, heads, rows, columns) without gaps. */
typedef struct {
    ON_PAGES float query[ROWS * HEAD_DIM];
    ON_PAGES float key[KEY_ROWS * HEAD_DIM];
    ON_PAGES float value[KEY_ROWS * HEAD_DIM];
    ON_PAGES float dout[ROWS * HEAD_DIM];
    ON_PAGES uint8_t mask[MOST_SCORES];
    ON_PAGES float additive[MOST_SCORES];
    ON_PAGES float slopes[HEADS];
    ON_PAGES float sinks[HEADS];
    lists_t lists;
} inputs_t;

typedef struct {
    float out[ROWS * HEAD_DIM], logsumexp[ROWS];
    float dquery[ROWS * HEAD_DIM], dkey[KEY_ROWS * HEAD_DIM], dvalue[KEY_ROWS * HEAD_DIM];
    float dsinks[HEADS], dbias[MOST_SCORES];
} results_t;

/* How a call is told what to hide. */
typedef enum { BY_MASK, BY_LISTS_BESIDE_A_MASK, BY_TABLE_BESIDE_A_MASK, BY_LISTS, WAYS } way_t;

/* ------------------------------------------------------------------ what is hidden */

static int64_t lines_of(const case_t *c) { return mfai_ceil_div(c->queries, c->block_rows); }
static int64_t columns_of(const case_t *c) { return mfai_ceil_div(KEYS, c->block_keys); }
static int64_t batches_of(const case_t *c) { return c->own_batches ? BATCH : 1; }
static int64_t heads_of(const case_t *c) { return c->own_heads ? HEADS : 1; }

/* Some number of a block. */
static int64_t hash(const case_t *c, int64_t batch, int64_t head, int64_t line, int64_t column) {
    const int64_t number = (c->own_batches ? batch * HEADS : 0) + (c->own_heads ? head : 0);
    return number * 7919 + line * 104729 + column * 1299709;
}

static kind_t kind_of(const case_t *c, int64_t batch, int64_t head, int64_t line, int64_t column) {
    const int64_t number = hash(c, batch, head, line, column);
    const kind_t kind = number % 3 == 0 ? FULL : PARTIAL;
    switch (c->pattern) {
    case RANDOM:
        return number % 11 < 4 ? kind : HIDDEN;
    case STRIPES:
        return column % 3 == 1 ? kind : HIDDEN;
    case ONLY_LAST:
        return line == lines_of(c) - 1 && column == columns_of(c) - 1 ? PARTIAL : HIDDEN;
    default:
        return HIDDEN;
    }
}

/* The mask of a partial block; -1: none. */
static int32_t mask_of(const case_t *c, int64_t batch, int64_t head, int64_t line, int64_t column) {
    return (int32_t)(hash(c, batch, head, line, column) / 7 % (MASKS + 1)) - 1;
}

static bool mask_shows(int64_t mask, int64_t row, int64_t key) { return (mask * 31 + row * 7 + key * 13) % 5 < 3; }

static kind_t kind_at(const case_t *c, int64_t batch, int64_t head, int64_t row, int64_t key) {
    return kind_of(c, batch, head, row / c->block_rows, key / c->block_keys);
}

/* Whether blocks and their masks show a pair. */
static bool shows(const case_t *c, int64_t batch, int64_t head, int64_t row, int64_t key) {
    const kind_t kind = kind_at(c, batch, head, row, key);
    const int32_t mask = mask_of(c, batch, head, row / c->block_rows, key / c->block_keys);
    return kind == FULL ||
           (kind == PARTIAL && (mask < 0 || mask_shows(mask, row % c->block_rows, key % c->block_keys)));
}

static void fill_lists(const case_t *c, lists_t *lists) {
    const int64_t lines = lines_of(c), columns = columns_of(c), listed = columns + SLACK;
    for (int64_t i = 0; i < MOST_LISTED; ++i)
        lists->kv_indices[i] = lists->full_kv_indices[i] = lists->mask_indices[i] = INT_MIN + (int32_t)i;
    int64_t line = 0;
    for (int64_t batch = 0; batch < batches_of(c); ++batch)
        for (int64_t head = 0; head < heads_of(c); ++head)
            for (int64_t row = 0; row < lines; ++row, ++line) {
                int32_t partial = 0, full = 0;
                for (int64_t column = 0; column < columns; ++column) {
                    const kind_t kind = kind_of(c, batch, head, row, column);
                    lists->table[line * columns + column] = kind != HIDDEN;
                    if (kind == FULL)
                        lists->full_kv_indices[line * listed + full++] = (int32_t)column;
                    if (kind != PARTIAL)
                        continue;
                    lists->mask_indices[line * listed + partial] = mask_of(c, batch, head, row, column);
                    lists->kv_indices[line * listed + partial++] = (int32_t)column;
                }
                lists->kv_num_blocks[line] = partial;
                lists->full_kv_num_blocks[line] = full;
            }
    for (int64_t mask = 0; mask < MASKS; ++mask)
        for (int64_t row = 0; row < c->block_rows; ++row)
            for (int64_t key = 0; key < c->block_keys; ++key)
                lists->masks[(mask * c->block_rows + row) * c->block_keys + key] = mask_shows(mask, row, key);
}

/* Keys and values that no row sees become `unseen`, and so does what is added to scores that nobody sees. */
static void fill(const case_t *c, float unseen, inputs_t *in) {
    fill_lists(c, &in->lists);
    for (int64_t batch = 0; batch < BATCH; ++batch)
        for (int64_t kv_head = 0; kv_head < KV_HEADS; ++kv_head)
            for (int64_t key = 0; key < KEYS; ++key) {
                bool seen = false;
                for (int64_t head = 2 * kv_head; head < 2 * kv_head + 2; ++head)
                    for (int64_t row = 0; row < c->queries; ++row) {
                        const bool shown = shows(c, batch, head, row, key);
                        in->additive[((batch * HEADS + head) * c->queries + row) * KEYS + key] =
                            shown ? random_float() : unseen;
                        seen = seen || shown;
                    }
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
    for (int64_t head = 0; head < HEADS; ++head) {
        in->slopes[head] = 0.01f * (float)head;
        in->sinks[head] = random_float();
    }
}

/* Beside blocks, a mask says the opposite where it is not to be asked. */
static void fill_mask(const case_t *c, way_t way, uint8_t *mask) {
    for (int64_t batch = 0; batch < BATCH; ++batch)
        for (int64_t head = 0; head < HEADS; ++head)
            for (int64_t row = 0; row < c->queries; ++row)
                for (int64_t key = 0; key < KEYS; ++key) {
                    const kind_t kind = kind_at(c, batch, head, row, key);
                    const bool asked =
                        way == BY_MASK || kind == PARTIAL || (way == BY_TABLE_BESIDE_A_MASK && kind == FULL);
                    *mask++ = asked ? shows(c, batch, head, row, key) : kind == HIDDEN;
                }
}

/* ------------------------------------------------------------------ calls */

static mfa_tensor_t tensor_of(void *data, int32_t precision, int64_t batch, int64_t heads, int64_t rows,
                              int64_t columns) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {batch, heads, rows, columns};
    const int64_t stride[4] = {heads * rows * columns, rows * columns, columns, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.precision = precision;
    t.data = data;
    return t;
}

static mfa_tensor_t tensor(void *data, int64_t heads, int64_t rows, int64_t columns) {
    return tensor_of(data, MFA_PRECISION_FP32, BATCH, heads, rows, columns);
}

/* A call of both passes; the descriptors point into the struct itself. */
typedef struct {
    mfa_tensor_t query, key, value, out, logsumexp, mask, additive, slopes, sinks;
    mfa_tensor_t dout, dquery, dkey, dvalue, dbias, dsinks;
    mfa_tensor_t kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, table, masks, mask_indices;
    mfa_blocks_t blocks;
    mfa_attention_desc_t forward;
    mfa_attention_backward_desc_t backward;
} call_t;

static void describe_blocks(const case_t *c, way_t way, lists_t *lists, call_t *call) {
    const int64_t batches = batches_of(c), heads = heads_of(c), lines = lines_of(c), listed = columns_of(c) + SLACK;
    const int32_t type = MFA_PRECISION_INT32;
    call->kv_num_blocks = tensor_of(lists->kv_num_blocks, type, batches, heads, lines, 1);
    call->kv_indices = tensor_of(lists->kv_indices, type, batches, heads, lines, listed);
    call->full_kv_num_blocks = tensor_of(lists->full_kv_num_blocks, type, batches, heads, lines, 1);
    call->full_kv_indices = tensor_of(lists->full_kv_indices, type, batches, heads, lines, listed);
    call->mask_indices = tensor_of(lists->mask_indices, type, batches, heads, lines, listed);
    call->table = tensor_of(lists->table, MFA_PRECISION_BOOL, batches, heads, lines, columns_of(c));
    call->masks = tensor_of(lists->masks, MFA_PRECISION_BOOL, MASKS, 1, c->block_rows, c->block_keys);
    call->blocks = (mfa_blocks_t)MFA_BLOCKS_INIT;
    call->blocks.block_rows = c->block_rows;
    call->blocks.block_keys = c->block_keys;
    call->forward.blocks = &call->blocks;
    if (way == BY_TABLE_BESIDE_A_MASK) {
        call->blocks.block_mask = &call->table;
        return;
    }
    call->blocks.kv_num_blocks = &call->kv_num_blocks;
    call->blocks.kv_indices = &call->kv_indices;
    call->blocks.full_kv_num_blocks = &call->full_kv_num_blocks;
    call->blocks.full_kv_indices = &call->full_kv_indices;
    if (way == BY_LISTS) {
        call->blocks.masks = &call->masks;
        call->blocks.mask_indices = &call->mask_indices;
    }
}

static void describe_biases(const case_t *c, inputs_t *in, results_t *to, call_t *call) {
    call->additive = tensor(in->additive, HEADS, c->queries, KEYS);
    call->slopes = tensor_of(in->slopes, MFA_PRECISION_FP32, 1, HEADS, 1, 1);
    call->sinks = tensor_of(in->sinks, MFA_PRECISION_FP32, 1, HEADS, 1, 1);
    call->dbias = tensor(to->dbias, HEADS, c->queries, KEYS);
    call->dsinks = tensor_of(to->dsinks, MFA_PRECISION_FP32, 1, HEADS, 1, 1);
    call->forward.additive_mask = &call->additive;
    call->forward.alibi_slopes = &call->slopes;
    call->forward.sinks = &call->sinks;
    call->forward.softcap = 2;
    call->forward.dropout_p = 0.25f;
    call->forward.dropout_seed = 7;
    call->backward.dbias = &call->dbias;
    call->backward.dsinks = &call->dsinks;
}

static void describe(const case_t *c, way_t way, inputs_t *in, results_t *to, call_t *call) {
    *call = (call_t){
        .query = tensor(in->query, HEADS, c->queries, HEAD_DIM),
        .key = tensor(in->key, KV_HEADS, KEYS, HEAD_DIM),
        .value = tensor(in->value, KV_HEADS, KEYS, HEAD_DIM),
        .out = tensor(to->out, HEADS, c->queries, HEAD_DIM),
        .logsumexp = tensor(to->logsumexp, HEADS, c->queries, 1),
        .mask = tensor_of(in->mask, MFA_PRECISION_BOOL, BATCH, HEADS, c->queries, KEYS),
        .dout = tensor(in->dout, HEADS, c->queries, HEAD_DIM),
        .dquery = tensor(to->dquery, HEADS, c->queries, HEAD_DIM),
        .dkey = tensor(to->dkey, KV_HEADS, KEYS, HEAD_DIM),
        .dvalue = tensor(to->dvalue, KV_HEADS, KEYS, HEAD_DIM),
        .forward = MFA_ATTENTION_DESC_INIT,
        .backward = MFA_ATTENTION_BACKWARD_DESC_INIT,
    };
    call->forward.query = &call->query;
    call->forward.key = &call->key;
    call->forward.value = &call->value;
    call->forward.out = &call->out;
    call->forward.logsumexp = &call->logsumexp;
    call->forward.flags = c->causal ? MFA_ATTENTION_CAUSAL : 0;
    call->forward.window_left = c->window_left;
    call->forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    call->backward.forward = &call->forward;
    call->backward.dout = &call->dout;
    call->backward.dquery = &call->dquery;
    call->backward.dkey = &call->dkey;
    call->backward.dvalue = &call->dvalue;
    if (way != BY_LISTS) {
        fill_mask(c, way, in->mask);
        call->forward.bool_mask = &call->mask;
    }
    if (way != BY_MASK)
        describe_blocks(c, way, &in->lists, call);
    if (c->biased)
        describe_biases(c, in, to, call);
}

static void succeeds(mfa_status_t status) {
    CHECK(status == MFA_SUCCESS);
    if (status != MFA_SUCCESS)
        fprintf(stderr, "%s\n", mfa_last_error_message(NULL));
}

static void run_forward(mfa_context_t context, const case_t *c, way_t way, inputs_t *in, results_t *to) {
    call_t call;
    describe(c, way, in, to, &call);
    succeeds(mfa_attention_forward_desc(context, &call.forward));
}

static void run_backward(mfa_context_t context, const case_t *c, way_t way, inputs_t *in, results_t *to) {
    call_t call;
    describe(c, way, in, to, &call);
    succeeds(mfa_attention_backward_desc(context, &call.backward));
}

/* ------------------------------------------------------------------ results */

static float distance(const results_t *a, const results_t *b) {
    const float *x = (const float *)a, *y = (const float *)b;
    float most = 0;
    for (size_t i = 0; i < sizeof *a / sizeof(float); ++i)
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
    results_t *r[WAYS];
    fill(c, NAN, in);
    for (int way = 0; way < WAYS; ++way) {
        r[way] = calloc(1, sizeof *r[way]);
        run_forward(context, c, (way_t)way, in, r[way]);
        run_backward(context, c, (way_t)way, in, r[way]);
    }
    CHECK(memcmp(r[BY_MASK], r[BY_LISTS_BESIDE_A_MASK], sizeof *r[0]) == 0);
    CHECK(memcmp(r[BY_MASK], r[BY_TABLE_BESIDE_A_MASK], sizeof *r[0]) == 0);
    if (c->biased)
        CHECK(memcmp(r[BY_MASK], r[BY_LISTS], sizeof *r[0]) == 0);
    CHECK(distance(r[BY_MASK], r[BY_LISTS]) < 1e-5f); /* scores in other units, unless biased */
    CHECK(is_sound(r[BY_LISTS]));
    for (int way = 0; way < WAYS; ++way)
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
            if (kind_at(c, batch, head, row, key) != HIDDEN)
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

typedef void run_t(mfa_context_t context, const case_t *c, way_t way, inputs_t *in, results_t *to);

static emu_counters count(mfa_context_t context, const case_t *c, run_t *run, way_t way, inputs_t *in, results_t *r) {
    emu_counters counted;
    emu_counters_reset();
    run(context, c, way, in, r);
    emu_counters_read(&counted);
    return counted;
}

enum { ROW_BYTES = HEAD_DIM * sizeof(float), DEPTH = HEAD_DIM / 8 };

/* Pairs in partial blocks, of those with masks of their own if `masked`. */
static uint64_t count_partial(const case_t *c, bool masked) {
    uint64_t found = 0;
    for (int64_t batch = 0; batch < BATCH; ++batch)
        for (int64_t head = 0; head < HEADS; ++head)
            for (int64_t row = 0; row < c->queries; ++row)
                for (int64_t key = 0; key < KEYS; ++key)
                    found += kind_at(c, batch, head, row, key) == PARTIAL &&
                             (!masked || mask_of(c, batch, head, row / c->block_rows, key / c->block_keys) >= 0);
    return found;
}

/* Bytes of masks are read where blocks are partial, once by each kernel that computes scores. */
static void check_mask_bytes(mfa_context_t context, const case_t *c, inputs_t *in) {
    results_t *r = calloc(1, sizeof *r);
    fill(c, 0, in);
    const emu_counters forward = count(context, c, run_forward, BY_LISTS, in, r);
    const emu_counters backward = count(context, c, run_backward, BY_LISTS, in, r);
    CHECK(forward.buffer_bytes_loaded[MFA_BUFFER_MASKS] == count_partial(c, true));
    CHECK(backward.buffer_bytes_loaded[MFA_BUFFER_MASKS] == 2 * count_partial(c, true));
    const emu_counters masked = count(context, c, run_forward, BY_LISTS_BESIDE_A_MASK, in, r);
    const emu_counters differentiated = count(context, c, run_backward, BY_LISTS_BESIDE_A_MASK, in, r);
    CHECK(masked.buffer_bytes_loaded[MFA_BUFFER_BOOL_MASK] == count_partial(c, false));
    CHECK(differentiated.buffer_bytes_loaded[MFA_BUFFER_BOOL_MASK] == 2 * count_partial(c, false));
    free(r);
}

/* Without bounds, so that blocks alone decide. `context` runs checked kernels. */
static void check_costs(mfa_context_t context, const case_t *c, inputs_t *in) {
    results_t *r = calloc(1, sizeof *r);
    fill(c, 0, in);
    const emu_counters forward = count(context, c, run_forward, BY_LISTS, in, r);
    const mfai_metal_tile_t tile = tile_of(context, MFAI_METAL_FORWARD);
    const uint64_t staged = count_visits(c, tile.rows, tile.keys, false).rows * ROW_BYTES;
    const uint64_t visits = count_visits(c, tile.rows / tile.simdgroups, tile.keys, false).tiles;
    CHECK(forward.buffer_bytes_loaded[MFA_BUFFER_KEY] == staged);
    CHECK(forward.buffer_bytes_loaded[MFA_BUFFER_VALUE] == staged);
    CHECK(forward.matrix_multiplies ==
          visits * 2 * (uint64_t)(tile.rows / tile.simdgroups / 8 * tile.keys / 8) * DEPTH);

    const emu_counters backward = count(context, c, run_backward, BY_LISTS, in, r);
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
    const emu_counters counted = count(context, c, run_forward, BY_LISTS, in, r);
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

/* ------------------------------------------------------------------ lists that the CPU cannot read */

static id<MTLBuffer> hide(id<MTLDevice> device, const int32_t *numbers, size_t count) {
    NSString *source = @"#include <metal_stdlib>\n"
                        "using namespace metal;\n"
                        "[[kernel]] void copy(const device int *from [[buffer(0)]], device int *to [[buffer(1)]],\n"
                        "                     uint i [[threadgroup_position_in_grid]]) { to[i] = from[i]; }\n";
    id<MTLLibrary> library = [device newLibraryWithSource:source options:nil error:NULL];
    id<MTLFunction> function = [library newFunctionWithName:@"copy"];
    id<MTLComputePipelineState> pipeline = [device newComputePipelineStateWithFunction:function error:NULL];
    id<MTLBuffer> from = [device newBufferWithLength:count * 4 options:MTLResourceStorageModeShared];
    id<MTLBuffer> to = [device newBufferWithLength:count * 4 options:MTLResourceStorageModePrivate];
    memcpy([from contents], numbers, count * 4);
    id<MTLCommandQueue> queue = [device newCommandQueue];
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
    [encoder setComputePipelineState:pipeline];
    [encoder setBuffer:from offset:0 atIndex:0];
    [encoder setBuffer:to offset:0 atIndex:1];
    [encoder dispatchThreadgroups:MTLSizeMake(count, 1, 1) threadsPerThreadgroup:MTLSizeMake(1, 1, 1)];
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    CHECK([commands status] == MTLCommandBufferStatusCompleted);
    [from release];
    [queue release];
    [pipeline release];
    [function release];
    [library release];
    return to;
}

/* A tensor of the list's shape in private storage. */
static mfa_buffer_t hide_list(mfa_context_t context, id<MTLDevice> device, mfa_tensor_t *list) {
    id<MTLBuffer> hidden = hide(device, list->data, (size_t)(list->shape[0] * list->stride[0]));
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_buffer_from_mtl_buffer(context, hidden, &buffer) == MFA_SUCCESS);
    [hidden release];
    list->data = NULL;
    list->buffer = buffer;
    return buffer;
}

static void run_hidden(mfa_context_t context, id<MTLDevice> device, const case_t *c, inputs_t *in, results_t *to) {
    call_t call;
    describe(c, BY_LISTS, in, to, &call);
    mfa_tensor_t *const lists[] = {&call.kv_num_blocks, &call.kv_indices, &call.full_kv_num_blocks,
                                   &call.full_kv_indices, &call.mask_indices};
    enum { LISTS = sizeof lists / sizeof *lists };
    mfa_buffer_t buffers[LISTS];
    for (int i = 0; i < LISTS; ++i)
        buffers[i] = hide_list(context, device, lists[i]);
    succeeds(mfa_attention_forward_desc(context, &call.forward));
    succeeds(mfa_attention_backward_desc(context, &call.backward));
    for (int i = 0; i < LISTS; ++i)
        mfa_destroy_buffer(buffers[i]);
}

/* Counts beyond the lists, and blocks and masks that are not there. */
static void spoil(lists_t *lists) {
    static const int32_t wrong[] = {-1, INT_MIN, INT_MAX, 1 << 20, 32, 3};
    enum { WRONG = sizeof wrong / sizeof *wrong };
    for (int64_t i = 0; i < ROWS; ++i) {
        lists->kv_num_blocks[i] = wrong[i % WRONG];
        lists->full_kv_num_blocks[i] = wrong[i / WRONG % WRONG];
    }
    for (int64_t i = 0; i < MOST_LISTED; ++i) {
        lists->kv_indices[i] = i % 2 == 0 ? wrong[i % WRONG] : (int32_t)(i % 7);
        lists->full_kv_indices[i] = i % 3 == 0 ? wrong[i % WRONG] : (int32_t)(i % 5);
        lists->mask_indices[i] = wrong[i * 5 % WRONG];
    }
}

static void check_hidden_lists(mfa_context_t context, id<MTLDevice> device, const case_t *c, inputs_t *in) {
    results_t *r = calloc(1, sizeof *r), *hidden = calloc(1, sizeof *hidden);
    fill(c, 0, in);
    run_forward(context, c, BY_LISTS, in, r);
    run_backward(context, c, BY_LISTS, in, r);
    run_hidden(context, device, c, in, hidden);
    CHECK(memcmp(r, hidden, sizeof *r) == 0);
    spoil(&in->lists);
    run_hidden(context, device, c, in, hidden);
    CHECK(is_sound(hidden));
    free(r);
    free(hidden);
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
    {MOST_QUERIES, 64, 32},  {MOST_QUERIES, 8, 16},  {MOST_QUERIES, 5, 7}, {MOST_QUERIES, 1, 1},
    {MOST_QUERIES, 16, 128}, {MOST_QUERIES, 128, 7}, {3, 64, 32},          {3, 1, 3}};
enum { SIZES = sizeof sizes / sizeof *sizes };

static case_t case_of(int size, int pattern) {
    return (case_t){.queries = sizes[size][0],
                    .block_rows = sizes[size][1],
                    .block_keys = sizes[size][2],
                    .own_batches = true,
                    .own_heads = true,
                    .window_left = -1,
                    .pattern = (pattern_t)pattern};
}

int main(void) {
    inputs_t *in = aligned_alloc(EMU_PAGE_SIZE, sizeof *in);
    memset(in, 0, sizeof *in);
    mfa_context_t context = open_context();
    for (int size = 0; size < SIZES; ++size)
        for (int pattern = 0; pattern < PATTERNS; ++pattern) {
            case_t c = case_of(size, pattern);
            check_results(context, &c, in);
            c.causal = true;
            c.own_batches = false;
            check_results(context, &c, in);
            c.window_left = 40;
            c.own_heads = false;
            c.biased = true;
            check_results(context, &c, in);
        }
    mfa_destroy_context(context);

    setenv("METAL_EMULATOR_MODE", "checked", 1); /* counts bytes */
    context = open_context();
    for (int size = 0; size < SIZES; ++size)
        for (int pattern = 0; pattern < PATTERNS; ++pattern) {
            const case_t c = case_of(size, pattern);
            if (c.queries <= MFAI_METAL_DECODE_QUERIES) {
                check_decode_costs(context, &c, in);
                continue;
            }
            check_costs(context, &c, in);
            check_mask_bytes(context, &c, in);
        }
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    for (int size = 0; size < SIZES; ++size)
        @autoreleasepool {
            const case_t c = case_of(size, RANDOM);
            check_hidden_lists(context, device, &c, in);
        }
    [device release];
    mfa_destroy_context(context);
    free(in);
    return check_report();
}

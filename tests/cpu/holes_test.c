/*
 * Scores with holes: each pass over a call whose blocks leave pairs out, against the same call with a bool mask that
 * hides as much. What nobody visits is never read, and no sum waits for it.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "attn/walk.h"
#include "check.h"
#include "tensors.h"

enum { B = 2, H = 4, THREADS = 3, MOST_SECONDS = 400 /* a sum that waits for a hole would wait for ever */ };
enum { TILES = 3, UNREADABLE = 1 << 30 /* in lists, where nobody may look */ };

typedef enum { RANDOM, SPARSE, FIRST, LAST, STRIPES, NOTHING, EVERYTHING, PATTERNS } pattern_t;

/* How blocks are told. */
typedef enum {
    DENSE,      /* as a bool for each */
    LISTS,      /* in lists */
    FULL,       /* in lists, those that a bool mask does not touch in lists of their own */
    MASK_TILES, /* in lists with mask tiles */
    BOTH,       /* all of it */
    FORMS
} form_t;

typedef struct {
    int32_t precision;
    int64_t kv_heads, queries, keys, dim;
    int64_t block_rows, block_keys;
    bool per_batch, per_head, causal, biased;
    int64_t window_left;
    float dropout_p, softcap;
    bool sinks, alibi;
    int64_t chunk;
    bool lengths; /* of each sequence its own */
} shape_t;

typedef struct {
    mfa_tensor_t query, key, value, out, logsumexp, mask, pairs, bias, slopes, sinks;
    mfa_tensor_t dout, dquery, dkey, dvalue, dbias, dsinks;
    mfa_tensor_t query_lengths, key_lengths;
    mfa_sequences_t sequences;
} tensors_t;

typedef struct {
    mfa_blocks_t desc;
    mfa_tensor_t counts, indices, full_counts, full_indices, dense, masks, mask_indices;
    bool masked; /* with the bool mask `pairs` */
} blocks_t;

static bool is_set(pattern_t pattern, int64_t head, int64_t row, int64_t rows, int64_t key, int64_t keys) {
    switch (pattern) {
    case RANDOM:
        return rand() % 2;
    case SPARSE:
        return row != rows / 2 && key != keys / 3 && rand() % 5 == 0;
    case FIRST:
        return key == 0;
    case LAST:
        return row == rows - 1 && key == keys - 1;
    case STRIPES:
        return (row + head + key) % 3 == 0;
    case EVERYTHING:
        return true;
    default:
        return false;
    }
}

static int64_t count_of(const mfa_tensor_t *tensor) {
    return tensor->shape[0] * tensor->shape[1] * tensor->shape[2] * tensor->shape[3];
}

static size_t bytes(const mfa_tensor_t *tensor) {
    static const size_t element[] = {[MFA_PRECISION_FP16] = 2,
                                     [MFA_PRECISION_BF16] = 2,
                                     [MFA_PRECISION_FP32] = 4,
                                     [MFA_PRECISION_BOOL] = 1,
                                     [MFA_PRECISION_INT32] = 4};
    return (size_t)count_of(tensor) * element[tensor->precision];
}

/* A copy of it, of its own memory. */
static mfa_tensor_t copy_of(const mfa_tensor_t *tensor) {
    mfa_tensor_t copy = *tensor;
    copy.data = malloc(bytes(tensor) + 1);
    memcpy(copy.data, tensor->data, bytes(tensor));
    return copy;
}

static mfa_tensor_t tensor_of(int32_t precision, int64_t batch, int64_t heads, int64_t rows, int64_t columns) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    const int64_t shape[4] = {batch, heads, rows, columns};
    const int64_t stride[4] = {heads * rows * columns, rows * columns, columns, 1};
    memcpy(tensor.shape, shape, sizeof shape);
    memcpy(tensor.stride, stride, sizeof stride);
    tensor.precision = precision;
    tensor.data = calloc(bytes(&tensor) + 1, 1);
    return tensor;
}

static mfa_tensor_t random_of(int32_t precision, int64_t batch, int64_t heads, int64_t rows, int64_t columns) {
    mfa_tensor_t tensor = tensor_of(precision, batch, heads, rows, columns);
    for (int64_t i = 0; i < count_of(&tensor); ++i)
        store(precision, tensor.data, i, random_float());
    return tensor;
}

static int64_t place_in(const mfa_tensor_t *t, int64_t b, int64_t h, int64_t row, int64_t column) {
    return ((b % t->shape[0] * t->shape[1] + h % t->shape[1]) * t->shape[2] + row) * t->shape[3] + column;
}
static int32_t *int_at(const mfa_tensor_t *t, int64_t b, int64_t h, int64_t row, int64_t column) {
    return (int32_t *)t->data + place_in(t, b, h, row, column);
}
static char *bool_at(const mfa_tensor_t *t, int64_t b, int64_t h, int64_t row, int64_t column) {
    return (char *)t->data + place_in(t, b, h, row, column);
}

static double difference(const mfa_tensor_t *a, const mfa_tensor_t *b) {
    double most = 0;
    for (int64_t i = 0; i < count_of(a); ++i) {
        const float x = load(a->precision, a->data, i), y = load(b->precision, b->data, i);
        const double here = largest_difference(&x, &y, 1);
        most = here > most || isnan(here) ? here : most;
    }
    return most;
}

static mfa_attention_desc_t forward_desc(const shape_t *s, tensors_t *t, blocks_t *blocks) {
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    t->sequences = (mfa_sequences_t)MFA_SEQUENCES_INIT;
    t->sequences.query_lengths = &t->query_lengths;
    t->sequences.key_lengths = &t->key_lengths;
    desc.sequences = s->lengths ? &t->sequences : NULL;
    desc.query = &t->query;
    desc.key = &t->key;
    desc.value = &t->value;
    desc.out = &t->out;
    desc.logsumexp = &t->logsumexp;
    desc.bool_mask = blocks == NULL ? &t->mask : blocks->masked ? &t->pairs : NULL;
    desc.blocks = blocks != NULL ? &blocks->desc : NULL;
    desc.additive_mask = s->biased ? &t->bias : NULL;
    desc.alibi_slopes = s->alibi ? &t->slopes : NULL;
    desc.sinks = s->sinks ? &t->sinks : NULL;
    desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    desc.flags = s->causal ? MFA_ATTENTION_CAUSAL : 0;
    desc.window_left = s->window_left;
    desc.softcap = s->softcap;
    desc.dropout_p = s->dropout_p;
    desc.dropout_seed = 7;
    desc.chunk = blocks != NULL ? s->chunk : 0; /* the mask hides as much */
    return desc;
}

/* Runs a pass, with the blocks if there are any. */
static void forward(mfa_context_t context, const shape_t *s, tensors_t *t, blocks_t *blocks) {
    const mfa_attention_desc_t desc = forward_desc(s, t, blocks);
    CHECK(mfa_attention_forward_desc(context, &desc) == MFA_SUCCESS);
}

static void backward(mfa_context_t context, const shape_t *s, tensors_t *t, blocks_t *blocks) {
    const mfa_attention_desc_t desc = forward_desc(s, t, blocks);
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &desc;
    backward.dout = &t->dout;
    backward.dquery = &t->dquery;
    backward.dkey = &t->dkey;
    backward.dvalue = &t->dvalue;
    backward.dbias = s->biased ? &t->dbias : NULL;
    backward.dsinks = s->sinks ? &t->dsinks : NULL;
    CHECK(mfa_attention_backward_desc(context, &backward) == MFA_SUCCESS);
}

/* NaN in the keys and values of blocks that no row has, where so many follow each other that nobody may visit them. */
static void spoil(const shape_t *s, tensors_t *t, const bool *used) {
    for (int64_t i = 0, end; i < B * s->kv_heads * s->keys; i = end) {
        for (end = i + 1; end % s->keys != 0 && used[end] == used[i];)
            ++end;
        const bool at_end = i % s->keys == 0 || end % s->keys == 0;
        for (int64_t at = i * s->dim; at < end * s->dim && !used[i] && (at_end || end - i >= MFAI_WALK_LEAST_HOLE);
             ++at) {
            store(s->precision, t->key.data, at, NAN);
            store(s->precision, t->value.data, at, NAN);
        }
    }
}

static tensors_t make_tensors(const shape_t *s) {
    tensors_t t;
    t.query = random_of(s->precision, B, H, s->queries, s->dim);
    t.key = random_of(s->precision, B, s->kv_heads, s->keys, s->dim);
    t.value = random_of(s->precision, B, s->kv_heads, s->keys, s->dim);
    t.out = random_of(s->precision, B, H, s->queries, s->dim);
    t.logsumexp = random_of(MFA_PRECISION_FP32, B, H, s->queries, 1);
    t.mask = tensor_of(MFA_PRECISION_BOOL, B, H, s->queries, s->keys);
    t.pairs = tensor_of(MFA_PRECISION_BOOL, 1, H, s->queries, s->keys);
    for (int64_t i = 0; i < count_of(&t.pairs); ++i)
        ((char *)t.pairs.data)[i] = rand() % 3 > 0;
    t.bias = random_of(MFA_PRECISION_FP32, 1, 1, s->queries, s->keys);
    t.slopes = random_of(MFA_PRECISION_FP32, 1, H, 1, 1);
    t.sinks = random_of(MFA_PRECISION_FP32, 1, H, 1, 1);
    t.dout = random_of(s->precision, B, H, s->queries, s->dim);
    t.query_lengths = tensor_of(MFA_PRECISION_INT32, 1, 1, 1, B);
    t.key_lengths = tensor_of(MFA_PRECISION_INT32, 1, 1, 1, B);
    for (int64_t b = 0; b < B; ++b) {
        *int_at(&t.query_lengths, 0, 0, 0, b) = (int32_t)(s->queries - b * s->queries / 3);
        *int_at(&t.key_lengths, 0, 0, 0, b) = (int32_t)(s->keys - (B - 1 - b) * s->keys / 2);
    }
    t.dquery = copy_of(&t.query);
    t.dkey = copy_of(&t.key);
    t.dvalue = copy_of(&t.value);
    t.dbias = copy_of(&t.bias);
    t.dsinks = copy_of(&t.sinks);
    return t;
}

static void free_tensors(tensors_t *t) {
    mfa_tensor_t *const all[] = {&t->query, &t->key,    &t->value,  &t->out,   &t->logsumexp, &t->mask,
                                 &t->pairs, &t->bias,   &t->slopes, &t->sinks, &t->dout,      &t->dquery,
                                 &t->dkey,  &t->dvalue, &t->dbias,  &t->dsinks};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        free(all[i]->data);
    free(t->query_lengths.data), free(t->key_lengths.data);
}

/* A block more of a line's list. */
static void list(mfa_tensor_t *counts, mfa_tensor_t *indices, int64_t b, int64_t h, int64_t line, int64_t block) {
    int32_t *count = int_at(counts, b, h, line, 0);
    *int_at(indices, b, h, line, *count) = (int32_t)block;
    ++*count;
}

/* The blocks of a pattern, told in a form, and in t->mask what they leave visible. */
static blocks_t make_blocks(const shape_t *s, pattern_t pattern, form_t form, tensors_t *t) {
    const int64_t lines = (s->queries + s->block_rows - 1) / s->block_rows;
    const int64_t columns = (s->keys + s->block_keys - 1) / s->block_keys;
    const int64_t batch = s->per_batch ? B : 1, heads = s->per_head ? H : 1;
    const bool has_full = form == FULL || form == BOTH, has_tiles = form == MASK_TILES || form == BOTH;
    blocks_t k = {.desc = MFA_BLOCKS_INIT, .masked = has_full};
    k.counts = tensor_of(MFA_PRECISION_INT32, batch, heads, lines, 1);
    k.full_counts = tensor_of(MFA_PRECISION_INT32, batch, heads, lines, 1);
    k.indices = tensor_of(MFA_PRECISION_INT32, batch, heads, lines, columns + 1);
    k.full_indices = tensor_of(MFA_PRECISION_INT32, batch, heads, lines, columns);
    k.mask_indices = tensor_of(MFA_PRECISION_INT32, batch, heads, lines, columns + 1);
    k.dense = tensor_of(MFA_PRECISION_BOOL, batch, heads, lines, columns);
    k.masks = has_tiles ? tensor_of(MFA_PRECISION_BOOL, TILES, 1, s->block_rows, s->block_keys)
                        : tensor_of(MFA_PRECISION_BOOL, 0, 1, 1, 1); /* blocks may be vast */
    for (int64_t i = 0; i < count_of(&k.masks); ++i)
        ((char *)k.masks.data)[i] = rand() % 3 > 0;
    bool *is_full = calloc((size_t)count_of(&k.dense) + 1, sizeof *is_full);
    int32_t *tile_of = malloc(((size_t)count_of(&k.dense) + 1) * sizeof *tile_of);
    for (int64_t i = 0; i < count_of(&k.indices); ++i)
        ((int32_t *)k.indices.data)[i] = ((int32_t *)k.mask_indices.data)[i] = UNREADABLE;
    for (int64_t i = 0; i < count_of(&k.full_indices); ++i)
        ((int32_t *)k.full_indices.data)[i] = UNREADABLE;
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t h = 0; h < heads; ++h)
            for (int64_t line = 0; line < lines; ++line) {
                for (int64_t block = 0; block < columns; ++block) {
                    const int64_t at = place_in(&k.dense, b, h, line, block);
                    tile_of[at] = -1;
                    if (!is_set(pattern, h + b, line, lines, block, columns))
                        continue;
                    ((char *)k.dense.data)[at] = true;
                    is_full[at] = has_full && rand() % 2;
                    tile_of[at] = has_tiles && !is_full[at] ? rand() % (TILES + 1) - 1 : -1;
                    if (is_full[at])
                        list(&k.full_counts, &k.full_indices, b, h, line, block);
                    else
                        list(&k.counts, &k.indices, b, h, line, block);
                }
                for (int32_t i = 0; i < *int_at(&k.counts, b, h, line, 0); ++i)
                    *int_at(&k.mask_indices, b, h, line, i) =
                        tile_of[place_in(&k.dense, b, h, line, *int_at(&k.indices, b, h, line, i))];
            }
    for (int64_t b = 0; b < B; ++b)
        for (int64_t h = 0; h < H; ++h)
            for (int64_t row = 0; row < s->queries; ++row)
                for (int64_t key = 0; key < s->keys; ++key) {
                    const int64_t at = place_in(&k.dense, b, h, row / s->block_rows, key / s->block_keys);
                    bool sees = ((char *)k.dense.data)[at];
                    if (k.masked && !is_full[at])
                        sees = sees && *bool_at(&t->pairs, b, h, row, key);
                    if (tile_of[at] >= 0)
                        sees = sees && *bool_at(&k.masks, tile_of[at], 0, row % s->block_rows, key % s->block_keys);
                    const int64_t place = row + s->keys - s->queries + s->keys * s->chunk; /* not negative */
                    if (s->chunk > 0)
                        sees = sees && place / s->chunk - s->keys == key / s->chunk;
                    *bool_at(&t->mask, b, h, row, key) = sees;
                }
    free(is_full), free(tile_of);
    return k;
}

/* Points the descriptor to its tensors. */
static void describe(const shape_t *s, form_t form, blocks_t *k) {
    k->desc.block_rows = s->block_rows;
    k->desc.block_keys = s->block_keys;
    if (form == DENSE) {
        k->desc.block_mask = &k->dense;
        return;
    }
    k->desc.kv_num_blocks = &k->counts;
    k->desc.kv_indices = &k->indices;
    if (form == FULL || form == BOTH) {
        k->desc.full_kv_num_blocks = &k->full_counts;
        k->desc.full_kv_indices = &k->full_indices;
    }
    if (form == MASK_TILES || form == BOTH) {
        k->desc.masks = &k->masks;
        k->desc.mask_indices = &k->mask_indices;
    }
}

static void free_blocks(blocks_t *k) {
    mfa_tensor_t *const all[] = {&k->counts, &k->indices, &k->full_counts, &k->full_indices,
                                 &k->dense,  &k->masks,   &k->mask_indices};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        free(all[i]->data);
}

static void test_pattern(mfa_context_t context, const shape_t *s, pattern_t pattern, form_t form) {
    tensors_t masked = make_tensors(s);
    blocks_t blocks = make_blocks(s, pattern, form, &masked);
    describe(s, form, &blocks);
    bool *used = calloc((size_t)(B * s->kv_heads * s->keys), sizeof *used);
    for (int64_t b = 0; b < B; ++b)
        for (int64_t head = 0; head < H; ++head)
            for (int64_t row = 0; row < s->queries; ++row)
                for (int64_t key = 0; key < s->keys; ++key)
                    used[(b * s->kv_heads + head / (H / s->kv_heads)) * s->keys + key] |=
                        *bool_at(&blocks.dense, b, head, row / s->block_rows, key / s->block_keys);

    tensors_t holes = masked;
    mfa_tensor_t *const own[] = {&holes.key,  &holes.value,  &holes.out,   &holes.logsumexp, &holes.dquery,
                                 &holes.dkey, &holes.dvalue, &holes.dbias, &holes.dsinks};
    for (size_t i = 0; i < sizeof own / sizeof *own; ++i)
        *own[i] = copy_of(own[i]);
    spoil(s, &holes, used);
    forward(context, s, &masked, NULL);
    forward(context, s, &holes, &blocks);
    /* Tiles begin elsewhere where there are holes, so that sums round differently. */
    const double most = s->precision == MFA_PRECISION_FP32 ? 2e-5 : 4e-2;
    CHECK(difference(&holes.out, &masked.out) < most);
    CHECK(difference(&holes.logsumexp, &masked.logsumexp) < 2e-5);

    memcpy(holes.out.data, masked.out.data, bytes(&masked.out));
    memcpy(holes.logsumexp.data, masked.logsumexp.data, bytes(&masked.logsumexp));
    backward(context, s, &masked, NULL);
    backward(context, s, &holes, &blocks);
    CHECK(difference(&holes.dquery, &masked.dquery) < most);
    CHECK(difference(&holes.dkey, &masked.dkey) < most);
    CHECK(difference(&holes.dvalue, &masked.dvalue) < most);
    CHECK(!s->biased || difference(&holes.dbias, &masked.dbias) < 2e-5);
    CHECK(!s->sinks || difference(&holes.dsinks, &masked.dsinks) < 2e-5);
    for (size_t i = 0; i < sizeof own / sizeof *own; ++i)
        free(own[i]->data);
    free_tensors(&masked);
    free_blocks(&blocks);
    free(used);
}

/* Keys and values that lie in pages which must not be touched, behind the first `there` of the first head. */
static char *guarded(const mfa_tensor_t *tensor, int64_t there) {
    char *memory = mmap(NULL, bytes(tensor), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(memory, tensor->data, bytes(tensor));
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t begin = ((size_t)(there * tensor->shape[3]) * 4 + page - 1) / page * page;
    CHECK(begin < bytes(tensor) && mprotect(memory + begin, bytes(tensor) - begin, PROT_NONE) == 0);
    return memory;
}

/* Only the first 64 keys count, and only the tile that they lie in may be read. */
static void test_unread(mfa_context_t context, int64_t queries) {
    shape_t s = {.precision = MFA_PRECISION_FP32,
                 .kv_heads = 1,
                 .queries = queries,
                 .keys = 3000,
                 .dim = 64,
                 .block_rows = 64,
                 .block_keys = 64,
                 .window_left = -1};
    tensors_t t = make_tensors(&s);
    blocks_t blocks = make_blocks(&s, FIRST, LISTS, &t);
    describe(&s, LISTS, &blocks);
    mfa_tensor_t *const operands[] = {&t.query, &t.key,    &t.value, &t.out,   &t.logsumexp,
                                      &t.dout,  &t.dquery, &t.dkey,  &t.dvalue};
    for (size_t i = 0; i < sizeof operands / sizeof *operands; ++i)
        operands[i]->shape[0] = 1;
    char *const key = t.key.data, *const value = t.value.data;
    for (int pass = 0; pass < 2; ++pass) {
        const int64_t there = pass == 0 ? 64 : 384; /* blocks of keys of the backward pass are whole tiles */
        t.key.data = guarded(&t.key, there);
        t.value.data = guarded(&t.value, there);
        (pass == 0 ? forward : backward)(context, &s, &t, &blocks);
        munmap(t.key.data, bytes(&t.key));
        munmap(t.value.data, bytes(&t.value));
        t.key.data = key;
        t.value.data = value;
    }
    free_tensors(&t);
    free_blocks(&blocks);
}

static const shape_t shapes[] = {
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = H,
     .queries = 130,
     .keys = 900,
     .dim = 16,
     .block_rows = 32,
     .block_keys = 64,
     .per_head = true},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 2,
     .queries = 101,
     .keys = 450,
     .dim = 5,
     .block_rows = 7,
     .block_keys = 45,
     .per_head = true,
     .per_batch = true,
     .causal = true},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 1,
     .queries = 200,
     .keys = 801,
     .dim = 8,
     .block_rows = 96,
     .block_keys = 384,
     .biased = true},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 1,
     .queries = 3,
     .keys = 1200,
     .dim = 16,
     .block_rows = 1,
     .block_keys = 100,
     .per_head = true,
     .causal = true,
     .biased = true,
     .window_left = 1000}, /* few rows, split keys */
    {.precision = MFA_PRECISION_BF16,
     .kv_heads = 2,
     .queries = 120,
     .keys = 421,
     .dim = 12,
     .block_rows = 10,
     .block_keys = 13,
     .per_head = true,
     .window_left = 150},
    {.precision = MFA_PRECISION_BF16,
     .kv_heads = 1,
     .queries = 4,
     .keys = 640,
     .dim = 20,
     .block_rows = 3,
     .block_keys = 31,
     .per_head = true,
     .causal = true},
    {.precision = MFA_PRECISION_FP16,
     .kv_heads = H,
     .queries = 33,
     .keys = 95,
     .dim = 3,
     .block_rows = 64,
     .block_keys = 16,
     .causal = true,
     .window_left = 70},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 2,
     .queries = 150,
     .keys = 90,
     .dim = 8,
     .block_rows = 16,
     .block_keys = 16,
     .per_head = true,
     .dropout_p = 0.3f},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 1,
     .queries = 61,
     .keys = 130,
     .dim = 8,
     .block_rows = 100,
     .block_keys = 3,
     .per_batch = true,
     .softcap = 2,
     .alibi = true},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = H,
     .queries = 40,
     .keys = 77,
     .dim = 9,
     .block_rows = 3,
     .block_keys = 1,
     .sinks = true,
     .dropout_p = 0.2f},
    {.precision = MFA_PRECISION_BF16,
     .kv_heads = 2,
     .queries = 97,
     .keys = 256,
     .dim = 16,
     .block_rows = 16,
     .block_keys = 7,
     .per_head = true,
     .per_batch = true,
     .biased = true,
     .dropout_p = 0.5f,
     .sinks = true},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 2,
     .queries = 300,
     .keys = 300,
     .dim = 8,
     .block_rows = 64,
     .block_keys = 32,
     .chunk = 70},
    {.precision = MFA_PRECISION_BF16,
     .kv_heads = 1,
     .queries = 200,
     .keys = 333,
     .dim = 8,
     .block_rows = 50,
     .block_keys = 128,
     .chunk = 100,
     .causal = true,
     .softcap = 3},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = H,
     .queries = 260,
     .keys = 520,
     .dim = 32,
     .block_rows = 128,
     .block_keys = 128,
     .per_head = true},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 2,
     .queries = 200,
     .keys = 390,
     .dim = 8,
     .block_rows = 32,
     .block_keys = 64,
     .per_batch = true,
     .causal = true,
     .lengths = true},
    {.precision = MFA_PRECISION_BF16,
     .kv_heads = H,
     .queries = 90,
     .keys = 250,
     .dim = 16,
     .block_rows = 20,
     .block_keys = 40,
     .per_head = true,
     .biased = true,
     .lengths = true},
    {.precision = MFA_PRECISION_FP32,
     .kv_heads = 1,
     .queries = 3,
     .keys = 1500,
     .dim = 8,
     .block_rows = 2,
     .block_keys = 128,
     .per_head = true,
     .per_batch = true,
     .lengths = true},
};

/* One block has all of the scores, however large it says it is: nothing differs from a call without blocks. */
static void test_vast_block(mfa_context_t context, int64_t size) {
    shape_t s = {.precision = MFA_PRECISION_FP32,
                 .kv_heads = 2,
                 .queries = 130,
                 .keys = 900,
                 .dim = 16,
                 .block_rows = size,
                 .block_keys = size,
                 .window_left = -1};
    tensors_t plain = make_tensors(&s);
    memset(plain.mask.data, true, bytes(&plain.mask));
    blocks_t blocks = make_blocks(&s, EVERYTHING, DENSE, &plain);
    describe(&s, DENSE, &blocks);
    tensors_t vast = plain;
    mfa_tensor_t *const own[] = {&vast.out, &vast.logsumexp, &vast.dquery, &vast.dkey, &vast.dvalue};
    const mfa_tensor_t *const others[] = {&plain.out, &plain.logsumexp, &plain.dquery, &plain.dkey, &plain.dvalue};
    for (size_t i = 0; i < sizeof own / sizeof *own; ++i)
        *own[i] = copy_of(own[i]);
    forward(context, &s, &plain, NULL);
    forward(context, &s, &vast, &blocks);
    backward(context, &s, &plain, NULL);
    backward(context, &s, &vast, &blocks);
    for (size_t i = 0; i < sizeof own / sizeof *own; ++i) {
        CHECK(memcmp(own[i]->data, others[i]->data, bytes(others[i])) == 0);
        free(own[i]->data);
    }
    free_tensors(&plain);
    free_blocks(&blocks);
}

/* `number` is that of the context's instance, of those that are there. */
static void test_context(mfa_context_t context, int number) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        shape_t s = shapes[i];
        s.window_left = s.window_left == 0 ? -1 : s.window_left;
        for (pattern_t pattern = 0; pattern < PATTERNS; ++pattern)
            for (form_t form = 0; form < FORMS; ++form) {
                /* Results are compared in all of them on every instance, memory in each of them on one of two. */
                const bool in_turn = !HAS_ADDRESS_SANITIZER || (i + pattern + form) % 2 == (size_t)number % 2;
                if (in_turn && (pattern == RANDOM || form == (form_t)((i + pattern) % FORMS)))
                    test_pattern(context, &s, pattern, form);
            }
    }
    test_unread(context, 2);
    test_unread(context, 40);
    test_vast_block(context, INT64_C(1) << 30);
    test_vast_block(context, INT64_MAX - 1000);
}

int main(void) {
    alarm(MOST_SECONDS);
    int instances = 0;
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_CPU;
        options.cpu_isa = isa;
        options.num_threads = THREADS;
        mfa_context_t context = NULL;
        if (mfa_create_context_with_options(&options, &context) != MFA_SUCCESS)
            continue;
        test_context(context, instances++);
        mfa_destroy_context(context);
    }
    CHECK(instances > 0);
    return check_report();
}

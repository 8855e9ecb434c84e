/* Calls that append to caches of every layout, with and without rotary embedding: what is in the cache afterwards, byte
   by byte, and that attention sees it, against the definition. Asked of every backend. */
#ifndef APPENDING_H
#define APPENDING_H

#include "check.h"
#include "tensors.h"

enum { B = 3, H = 4, HKV = 2, D = 24, DV = 20, QUERIES = 3, CAPACITY = 40, PAGE = 8, CACHES = 4, POSITIONS = 60 };
enum { TABLE = CAPACITY / PAGE, PAGES = B * TABLE + 2 };

typedef enum { OWN, BATCHES, PAGED, PLACES } place_t;
typedef enum { UNTURNED, HALVES, INTERLEAVED, TURNS } turn_t;

typedef struct {
    int32_t precision, table_precision;
    place_t place;
    turn_t turn;
    int64_t pairs; /* that are turned */
    bool packed_new, packed_queries, padded, strided, causal, positions;
} case_t;

/* An operand of its own memory, which holds NaN where nobody writes. */
typedef struct {
    mfa_tensor_t tensor;
    size_t bytes;
} operand_t;

static inline size_t element_bytes(int32_t precision) {
    return precision == MFA_PRECISION_FP16 || precision == MFA_PRECISION_BF16 ? 2 : 4;
}

static inline int64_t element_at(const mfa_tensor_t *t, int64_t b, int64_t h, int64_t row, int64_t column) {
    return b * t->stride[0] + h * t->stride[1] + row * t->stride[2] + column * t->stride[3];
}

static inline float value_at(const mfa_tensor_t *t, int64_t b, int64_t h, int64_t row, int64_t column) {
    return load(t->precision, t->data, element_at(t, b, h, row, column));
}

/* Heads outside or inside rows; elements side by side or `apart`. */
static inline operand_t make(int32_t precision, int64_t batch, int64_t heads, int64_t rows, int64_t columns,
                             int64_t apart, bool heads_inside) {
    operand_t made = {.tensor = MFA_TENSOR_INIT};
    mfa_tensor_t *t = &made.tensor;
    const int64_t line = columns * apart + (apart > 1 ? 3 : 0);
    const int64_t shape[4] = {batch, heads, rows, columns};
    const int64_t stride[4] = {heads * rows * line, heads_inside ? line : rows * line,
                               heads_inside ? heads * line : line, apart};
    memcpy(t->shape, shape, sizeof shape);
    memcpy(t->stride, stride, sizeof stride);
    t->precision = precision;
    const int64_t count = batch * heads * rows * line;
    made.bytes = (size_t)count * element_bytes(precision);
    t->data = malloc(made.bytes + 1);
    for (int64_t i = 0; i < count; ++i)
        store(precision, t->data, i, NAN);
    return made;
}

static inline void fill_row(const mfa_tensor_t *t, int64_t b, int64_t row) {
    for (int64_t h = 0; h < t->shape[1]; ++h)
        for (int64_t c = 0; c < t->shape[3]; ++c)
            store(t->precision, t->data, element_at(t, b, h, row, c), random_float());
}

static inline mfa_tensor_t list_of(int32_t *entries, int64_t rows, int64_t count) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    t.precision = MFA_PRECISION_INT32;
    t.data = entries;
    const int64_t shape[4] = {1, 1, rows, count}, stride[4] = {rows * count, rows * count, count, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    return t;
}

static inline int32_t random_int(int32_t least, int32_t most) { return least + rand() % (most - least + 1); }

typedef struct {
    case_t made;
    operand_t query, key, value, new_key, new_value, out, logsumexp, cosines, sines;
    int32_t lengths[B], padding[B], news[B], new_starts[B + 1], queries[B], query_starts[B + 1], key_starts[B + 1];
    int32_t batches[B], pages[B * TABLE], positions[B];
} call_t;

/* Where row r of a sequence's cache lies, padding included. */
static inline void find_key(const call_t *call, int64_t b, int64_t r, int64_t *batch, int64_t *row) {
    *batch = b, *row = r;
    if (call->made.place == BATCHES)
        *batch = call->batches[b];
    if (call->made.place == PLACES)
        *batch = 0, *row = call->key_starts[b] + r;
    if (call->made.place == PAGED)
        *batch = call->pages[b * TABLE + r / PAGE], *row = r % PAGE;
}

static inline void find_query(const call_t *call, int64_t b, int64_t i, int64_t *batch, int64_t *row) {
    *batch = call->made.packed_queries ? 0 : b;
    *row = (call->made.packed_queries ? call->query_starts[b] : 0) + i;
}

static inline call_t make_call(const case_t *c) {
    call_t call = {.made = *c};
    for (int b = 0; b < B; ++b) {
        call.news[b] = c->packed_new ? random_int(0, 6) : 4;
        call.queries[b] = c->packed_queries ? random_int(0, QUERIES) : QUERIES;
        call.lengths[b] = random_int(c->padded ? 5 : 0, CAPACITY - call.news[b]);
        call.padding[b] = c->padded ? random_int(0, 5) : 0;
        call.positions[b] = c->positions ? random_int(0, 7) : call.lengths[b];
        call.new_starts[b + 1] = call.new_starts[b] + call.news[b];
        call.query_starts[b + 1] = call.query_starts[b] + call.queries[b];
        call.key_starts[b + 1] = call.key_starts[b] + CAPACITY;
        call.batches[b] = (b + 1) % CACHES; /* each its own */
        for (int n = 0; n < TABLE; ++n)     /* what no length reaches is never read */
            call.pages[b * TABLE + n] =
                n * PAGE < call.lengths[b] + call.news[b] && (n + 1) * PAGE > call.padding[b] ? (n * B + b + 1) : 1000;
    }
    const int64_t apart = c->strided ? 2 : 1;
    const int64_t batch = c->place == PAGED ? PAGES : c->place == PLACES ? 1 : c->place == BATCHES ? CACHES : B;
    const int64_t rows = c->place == PAGED ? PAGE : c->place == PLACES ? B * CAPACITY : CAPACITY;
    call.key = make(c->precision, batch, HKV, rows, D, apart, rand() % 2);
    call.value = make(c->precision, batch, HKV, rows, DV, apart, rand() % 2);
    call.new_key =
        make(c->precision, c->packed_new ? 1 : B, HKV, c->packed_new ? call.new_starts[B] : 4, D, apart, rand() % 2);
    call.new_value =
        make(c->precision, c->packed_new ? 1 : B, HKV, c->packed_new ? call.new_starts[B] : 4, DV, 1, rand() % 2);
    const int64_t query_batch = c->packed_queries ? 1 : B;
    const int64_t query_rows = c->packed_queries ? call.query_starts[B] : QUERIES;
    call.query = make(c->precision, query_batch, H, query_rows, D, apart, rand() % 2);
    call.out = make(c->precision, query_batch, H, query_rows, DV, 1, rand() % 2);
    call.logsumexp = make(MFA_PRECISION_FP32, query_batch, H, query_rows, 1, 1, false);
    call.cosines = make(c->table_precision, 1, 1, POSITIONS, c->pairs, apart, false);
    call.sines = make(c->table_precision, 1, 1, POSITIONS, c->pairs, 1, false);
    for (int b = 0; b < B; ++b) {
        int64_t at_batch, at_row;
        for (int r = call.padding[b]; r < call.lengths[b]; ++r) {
            find_key(&call, b, r, &at_batch, &at_row);
            fill_row(&call.key.tensor, at_batch, at_row);
            fill_row(&call.value.tensor, at_batch, at_row);
        }
        for (int i = 0; i < call.news[b]; ++i) {
            fill_row(&call.new_key.tensor, c->packed_new ? 0 : b, (c->packed_new ? call.new_starts[b] : 0) + i);
            fill_row(&call.new_value.tensor, c->packed_new ? 0 : b, (c->packed_new ? call.new_starts[b] : 0) + i);
        }
        for (int i = 0; i < call.queries[b]; ++i) {
            find_query(&call, b, i, &at_batch, &at_row);
            fill_row(&call.query.tensor, at_batch, at_row);
        }
    }
    for (int i = 0; i < POSITIONS; ++i)
        for (int64_t k = 0; k < c->pairs; ++k) {
            const double angle = i * pow(100, -(double)k / (double)c->pairs);
            store(c->table_precision, call.cosines.tensor.data, element_at(&call.cosines.tensor, 0, 0, i, k),
                  (float)cos(angle));
            store(c->table_precision, call.sines.tensor.data, element_at(&call.sines.tensor, 0, 0, i, k),
                  (float)sin(angle));
        }
    return call;
}

static inline void free_call(call_t *call) {
    operand_t *const all[] = {&call->query, &call->key,       &call->value,   &call->new_key, &call->new_value,
                              &call->out,   &call->logsumexp, &call->cosines, &call->sines};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        free(all[i]->tensor.data);
}

static inline mfa_status_t run(mfa_context_t context, call_t *call) {
    const case_t *c = &call->made;
    const mfa_tensor_t lengths = list_of(call->lengths, 1, B), padding = list_of(call->padding, 1, B);
    const mfa_tensor_t batches = list_of(call->batches, 1, B), table = list_of(call->pages, B, TABLE);
    const mfa_tensor_t new_starts = list_of(call->new_starts, 1, B + 1), positions = list_of(call->positions, 1, B);
    const mfa_tensor_t query_starts = list_of(call->query_starts, 1, B + 1);
    const mfa_tensor_t key_starts = list_of(call->key_starts, 1, B + 1);
    mfa_sequences_t sequences = MFA_SEQUENCES_INIT;
    sequences.query_starts = c->packed_queries ? &query_starts : NULL;
    sequences.key_starts = c->place == PLACES ? &key_starts : NULL;
    sequences.key_lengths = &lengths;
    sequences.left_padding = c->padded ? &padding : NULL;
    sequences.key_batches = c->place == BATCHES ? &batches : NULL;
    mfa_pages_t pages = MFA_PAGES_INIT;
    pages.page_table = &table;
    mfa_append_t append = MFA_APPEND_INIT;
    append.key = &call->new_key.tensor;
    append.value = &call->new_value.tensor;
    append.starts = c->packed_new ? &new_starts : NULL;
    append.rotary_cos = c->turn ? &call->cosines.tensor : NULL;
    append.rotary_sin = c->turn ? &call->sines.tensor : NULL;
    append.rotary_positions = c->positions ? &positions : NULL;
    append.flags = c->turn == INTERLEAVED ? MFA_APPEND_INTERLEAVED : 0;
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &call->query.tensor;
    desc.key = &call->key.tensor;
    desc.value = &call->value.tensor;
    desc.out = &call->out.tensor;
    desc.logsumexp = &call->logsumexp.tensor;
    desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    desc.flags = c->causal ? MFA_ATTENTION_CAUSAL : 0;
    desc.sequences = &sequences;
    desc.pages = c->place == PAGED ? &pages : NULL;
    desc.append = &append;
    return mfa_attention_forward_desc(context, &desc);
}

/* Column `column` of a row, turned by `position`. */
static inline double turned(const call_t *call, const mfa_tensor_t *t, int64_t b, int64_t h, int64_t row,
                            int64_t column, int64_t position) {
    const int64_t pairs = call->made.pairs;
    const double x = value_at(t, b, h, row, column);
    if (call->made.turn == UNTURNED || column >= 2 * pairs)
        return x;
    const bool interleaved = call->made.turn == INTERLEAVED;
    const int64_t pair = interleaved ? column / 2 : column % pairs;
    const bool second = interleaved ? column % 2 : column >= pairs;
    const int64_t partner = interleaved ? column ^ 1 : second ? column - pairs : column + pairs;
    const double y = value_at(t, b, h, row, partner);
    const double cosine = value_at(&call->cosines.tensor, 0, 0, position, pair);
    const double sine = value_at(&call->sines.tensor, 0, 0, position, pair);
    return second ? y * sine + x * cosine : x * cosine - y * sine;
}

static const double epsilon[] = {0x1p-11, 0x1p-8, 0x1p-24};

/* What the cache holds: new rows where they belong, and every other byte as before. */
static inline bool cache_is_right(const call_t *call, const operand_t *cache, const operand_t *new,
                                  const char *before) {
    const mfa_tensor_t *t = &cache->tensor;
    const size_t size = element_bytes(t->precision);
    const bool keys = cache == &call->key;
    char *left = malloc(cache->bytes + 1); /* what was there, and what came, where that is known to the bit */
    memcpy(left, before, cache->bytes);
    bool right = true;
    for (int b = 0; b < B; ++b)
        for (int i = 0; i < call->news[b]; ++i) {
            int64_t batch, row;
            find_key(call, b, call->lengths[b] + i, &batch, &row);
            const int64_t from = call->made.packed_new ? 0 : b,
                          from_row = (call->made.packed_new ? call->new_starts[b] : 0) + i;
            for (int64_t h = 0; h < HKV; ++h)
                for (int64_t c = 0; c < t->shape[3]; ++c) {
                    const int64_t at = element_at(t, batch, h, row, c);
                    const char *is = (const char *)t->data + (size_t)at * size;
                    if (keys && call->made.turn && c < 2 * call->made.pairs) {
                        const double expected =
                            turned(call, &new->tensor, from, h, from_row, c, call->positions[b] + i);
                        right &= fabs(load(t->precision, t->data, at) - expected) <= 3 * epsilon[t->precision];
                        memcpy(left + (size_t)at * size, is, size);
                    } else {
                        memcpy(left + (size_t)at * size,
                               (const char *)new->tensor.data +
                                   (size_t)element_at(&new->tensor, from, h, from_row, c) * size,
                               size);
                    }
                }
        }
    right &= memcmp(left, t->data, cache->bytes) == 0;
    free(left);
    return right;
}

/* Attention of turned queries over what the cache holds now. */
static inline double error_of(const call_t *call) {
    const case_t *c = &call->made;
    double worst = 0;
    for (int b = 0; b < B; ++b)
        for (int64_t h = 0; h < H; ++h)
            for (int64_t i = 0; i < call->queries[b]; ++i) {
                const int64_t keys = call->lengths[b] + call->news[b], first = call->padding[b];
                const int64_t end = c->causal ? keys - call->queries[b] + i + 1 : keys;
                double sum = 0, weights[CAPACITY], total[DV] = {0};
                int64_t batch, row, query_batch, query_row;
                find_query(call, b, i, &query_batch, &query_row);
                for (int64_t j = first; j < end; ++j) {
                    find_key(call, b, j, &batch, &row);
                    double score = 0;
                    for (int64_t d = 0; d < D; ++d)
                        score += turned(call, &call->query.tensor, query_batch, h, query_row, d,
                                        call->positions[b] + (c->causal ? i : 0)) *
                                 value_at(&call->key.tensor, batch, h / (H / HKV), row, d);
                    sum += weights[j] = exp(score / sqrt((double)D));
                    for (int64_t d = 0; d < DV; ++d)
                        total[d] += weights[j] * value_at(&call->value.tensor, batch, h / (H / HKV), row, d);
                }
                for (int64_t d = 0; d < DV; ++d) {
                    const double is = value_at(&call->out.tensor, query_batch, h, query_row, d);
                    const double error = fabs(is - (sum > 0 ? total[d] / sum : 0));
                    worst = error > worst || isnan(error) ? error : worst;
                }
                const double is = value_at(&call->logsumexp.tensor, query_batch, h, query_row, 0);
                const double error = is == log(sum) ? 0 : fabs(is - log(sum)) / 8;
                worst = error > worst || isnan(error) ? error : worst;
            }
    return worst;
}

/* A copy, for another call. */
static inline call_t copy_call(const call_t *call) {
    call_t copy = *call;
    operand_t *const all[] = {&copy.query, &copy.key,       &copy.value,   &copy.new_key, &copy.new_value,
                              &copy.out,   &copy.logsumexp, &copy.cosines, &copy.sines};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i) {
        void *data = malloc(all[i]->bytes + 1);
        memcpy(data, all[i]->tensor.data, all[i]->bytes);
        all[i]->tensor.data = data;
    }
    return copy;
}

static inline void check_call(const call_t *call, const call_t *before) {
    const int32_t precision = call->made.precision;
    CHECK(memcmp(call->query.tensor.data, before->query.tensor.data, call->query.bytes) == 0); /* not in place */
    CHECK(cache_is_right(call, &call->key, &call->new_key, before->key.tensor.data));
    CHECK(cache_is_right(call, &call->value, &call->new_value, before->value.tensor.data));
    /* Queries are rounded once more. */
    CHECK(error_of(call) <= (precision == MFA_PRECISION_FP32 ? 32 : 6) * epsilon[precision]);
}

static inline void test_case(mfa_context_t alone, mfa_context_t several, const case_t *c) {
    call_t call = make_call(c), other = copy_call(&call), before = copy_call(&call);
    CHECK(run(alone, &call) == MFA_SUCCESS);
    CHECK(run(several, &other) == MFA_SUCCESS);
    CHECK(memcmp(call.key.tensor.data, other.key.tensor.data, call.key.bytes) == 0);
    CHECK(memcmp(call.value.tensor.data, other.value.tensor.data, call.value.bytes) == 0);
    CHECK(memcmp(call.out.tensor.data, other.out.tensor.data, call.out.bytes) == 0);
    check_call(&call, &before);
    free_call(&call), free_call(&other), free_call(&before);
}

static inline void test_cases(mfa_context_t alone, mfa_context_t several, int rounds) {
    for (int round = 0; round < rounds; ++round)
        for (int32_t precision = MFA_PRECISION_FP16; precision <= MFA_PRECISION_FP32; ++precision)
            for (place_t place = OWN; place <= PLACES; ++place)
                for (turn_t turn = UNTURNED; turn < TURNS; ++turn) {
                    const case_t c = {.precision = precision,
                                      .table_precision = rand() % 2 ? precision : MFA_PRECISION_FP32,
                                      .place = place,
                                      .turn = turn,
                                      .pairs = round % 3 == 0 ? D / 2 : random_int(1, D / 2),
                                      .packed_new = rand() % 2,
                                      .packed_queries = rand() % 2,
                                      .padded = rand() % 2,
                                      .strided = rand() % 2,
                                      .causal = rand() % 2,
                                      .positions = turn != UNTURNED && rand() % 2};
                    test_case(alone, several, &c);
                }
}

/* A cache without lengths is full, and has no room. */
static inline void test_errors(mfa_context_t context) {
    const case_t c = {
        .precision = MFA_PRECISION_FP32, .table_precision = MFA_PRECISION_FP32, .turn = HALVES, .pairs = 4};
    call_t call = make_call(&c), before = copy_call(&call);
    call.lengths[B - 1] = CAPACITY - 3;
    CHECK_FAILS(run(context, &call), MFA_ERROR_INVALID_ARGS, "append.key has 4 rows for sequence 2");
    CHECK(memcmp(call.key.tensor.data, before.key.tensor.data, call.key.bytes) == 0);
    call.lengths[B - 1] = 0;
    call.cosines.tensor.shape[2] = call.sines.tensor.shape[2] = 3;
    CHECK_FAILS(run(context, &call), MFA_ERROR_INVALID_ARGS, "append.rotary_cos has 3 positions, but sequence 0 has");
    call.cosines.tensor.shape[2] = call.sines.tensor.shape[2] = POSITIONS;
    call.cosines.tensor.shape[3] = call.sines.tensor.shape[3] = D / 2 + 1;
    CHECK_FAILS(run(context, &call), MFA_ERROR_INVALID_ARGS, "append.rotary_cos has 13 columns");
    CHECK(memcmp(call.key.tensor.data, before.key.tensor.data, call.key.bytes) == 0);
    free_call(&call), free_call(&before);
}

#endif

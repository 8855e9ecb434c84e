/*
 * Sequences of lengths of their own, in every layout: each pass against the definition, sequence by sequence. What no
 * length reaches holds NaN, or must not be touched at all, and results there become 0.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "naive_gradients.h"

enum { H = 4, MOST = 8, SPARE = 3 /* rows that each sequence could have beside its own */ };

typedef enum { PADDED, PACKED, PARTLY_PACKED, LEFT_PADDED, CACHE, PAGED, LAYOUTS } layout_t;

typedef struct {
    int64_t count, queries[MOST], keys[MOST];
} lengths_t;

typedef struct {
    int32_t precision;
    int64_t kv_heads, dim, value_dim;
    layout_t layout;
    int64_t page_rows;
    bool rows_first; /* heads of a row side by side */
    int features;    /* causal, window, softcap, mask, sinks, dropout */
} case_t;

typedef struct {
    int64_t batch, row;
} place_t;

/* Where the test puts the sequences. */
typedef struct {
    const case_t *c;
    const lengths_t *lengths;
    int64_t query_shape[2], key_shape[2]; /* batches and rows of operands */
    int64_t most_queries, most_keys;      /* sizes of masks */
    int32_t query_starts[MOST + 1], key_starts[MOST + 1];
    int32_t query_lengths[MOST], key_lengths[MOST], padding[MOST], key_batches[MOST];
    int32_t *pages;
    int64_t pages_each;
} plan_t;

static place_t query_place(const plan_t *plan, int64_t b, int64_t row) {
    const bool packed = plan->c->layout == PACKED || plan->c->layout == PARTLY_PACKED;
    return packed ? (place_t){0, plan->query_starts[b] + row} : (place_t){b, row};
}

static place_t key_place(const plan_t *plan, int64_t b, int64_t row) {
    const int64_t page_rows = plan->c->page_rows, padded = row + plan->padding[b];
    switch (plan->c->layout) {
    case PACKED:
    case PARTLY_PACKED:
        return (place_t){0, plan->key_starts[b] + padded};
    case CACHE:
        return (place_t){plan->key_batches[b], padded};
    case PAGED:
        return (place_t){plan->pages[b * plan->pages_each + padded / page_rows], padded % page_rows};
    default:
        return (place_t){b, padded};
    }
}

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static plan_t make_plan(const case_t *c, const lengths_t *lengths) {
    plan_t plan = {.c = c, .lengths = lengths};
    const int64_t count = lengths->count, spare = c->layout == PACKED ? 0 : SPARE;
    for (int64_t b = 0; b < count; ++b) {
        plan.padding[b] = c->layout == LEFT_PADDED || c->layout == PAGED ? (int32_t)(5 * b % 7) : 0;
        plan.query_lengths[b] = (int32_t)lengths->queries[b];
        plan.key_lengths[b] = (int32_t)lengths->keys[b] + plan.padding[b];
        plan.key_batches[b] = (int32_t)(count - b);
        plan.query_starts[b + 1] = plan.query_starts[b] + plan.query_lengths[b] + (int32_t)spare;
        plan.key_starts[b + 1] = plan.key_starts[b] + plan.key_lengths[b] + (int32_t)spare;
        plan.most_queries = larger(plan.most_queries, plan.query_lengths[b] + spare);
        plan.most_keys = larger(plan.most_keys, plan.key_lengths[b] + spare);
    }
    const bool packed = c->layout == PACKED || c->layout == PARTLY_PACKED;
    plan.query_shape[0] = packed ? 1 : count;
    plan.query_shape[1] = packed ? plan.query_starts[count] + (c->layout == PACKED ? 0 : 2) : plan.most_queries;
    plan.key_shape[0] = packed ? 1 : c->layout == CACHE ? count + 2 : count;
    plan.key_shape[1] = packed ? plan.key_starts[count] : plan.most_keys;
    if (c->layout == PAGED) {
        plan.pages_each = (plan.most_keys + c->page_rows - 1) / c->page_rows;
        const int64_t entries = count * plan.pages_each;
        plan.key_shape[0] = entries + 1;
        plan.key_shape[1] = c->page_rows;
        plan.pages = malloc((size_t)entries * sizeof *plan.pages);
        for (int64_t i = 0; i < entries; ++i) /* no two sequences share one; nonsense where no length reaches */
            plan.pages[i] = i % plan.pages_each * c->page_rows < plan.key_lengths[i / plan.pages_each]
                                ? (int32_t)(entries - i)
                                : -1000000;
    }
    return plan;
}

static int64_t element_count(const mfa_tensor_t *t) { return t->shape[0] * t->shape[1] * t->shape[2] * t->shape[3]; }
static size_t size_of(const mfa_tensor_t *t) {
    return (size_t)element_count(t) * (t->precision == MFA_PRECISION_FP32 ? 4 : 2);
}

static int64_t at(const mfa_tensor_t *t, place_t place, int64_t head, int64_t column) {
    return place.batch * t->stride[0] + head * t->stride[1] + place.row * t->stride[2] + column * t->stride[3];
}

/* Filled with NaN. */
static mfa_tensor_t new_tensor(const case_t *c, int32_t precision, const int64_t batch_rows[2], int64_t heads,
                               int64_t columns) {
    const int64_t rows = batch_rows[1];
    mfa_tensor_t t = MFA_TENSOR_INIT;
    t.precision = precision;
    const int64_t shape[4] = {batch_rows[0], heads, rows, columns};
    const int64_t stride[4] = {heads * rows * columns, c->rows_first ? columns : rows * columns,
                               c->rows_first ? heads * columns : columns, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.data = malloc(size_of(&t) + (element_count(&t) == 0));
    for (int64_t i = 0; i < element_count(&t); ++i)
        store(precision, t.data, i, NAN);
    return t;
}

typedef place_t (*place_fn)(const plan_t *plan, int64_t b, int64_t row);

/* Random numbers in the rows of one sequence, or these rows as a tensor of their own. */
static void fill_sequence(const plan_t *plan, mfa_tensor_t *t, place_fn place, int64_t b, int64_t rows) {
    for (int64_t h = 0; h < t->shape[1]; ++h)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t d = 0; d < t->shape[3]; ++d)
                store(t->precision, t->data, at(t, place(plan, b, i), h, d), random_float());
}

static mfa_tensor_t take_sequence(const plan_t *plan, const mfa_tensor_t *t, place_fn place, int64_t b, int64_t rows) {
    mfa_tensor_t alone = random_tensor(t->precision, t->shape[1], rows, t->shape[3]);
    for (int64_t h = 0; h < t->shape[1]; ++h)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t d = 0; d < t->shape[3]; ++d)
                store(t->precision, alone.data, (h * rows + i) * t->shape[3] + d,
                      load(t->precision, t->data, at(t, place(plan, b, i), h, d)));
    return alone;
}

static bool is_like(double value, double expected, double bound) {
    return value == expected || fabs(value - expected) < bound;
}

/* A sequence's rows of a result, which are then set to `elsewhere`: in the end the whole of it has to be that. */
static void check_sequence(const plan_t *plan, mfa_tensor_t *t, place_fn place, int64_t b, int64_t rows,
                           const double *expected, double bound, float elsewhere) {
    double size = 0.1;
    for (int64_t i = 0; i < t->shape[1] * rows * t->shape[3]; ++i)
        size = isfinite(expected[i]) ? fmax(size, fabs(expected[i])) : size;
    bool right = true;
    for (int64_t h = 0; h < t->shape[1]; ++h)
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t d = 0; d < t->shape[3]; ++d) {
                const int64_t element = at(t, place(plan, b, i), h, d);
                right &= is_like(load(t->precision, t->data, element), expected[(h * rows + i) * t->shape[3] + d],
                                 bound * size);
                store(t->precision, t->data, element, elsewhere);
            }
    CHECK(right);
}

static void check_all(const mfa_tensor_t *t, float value) {
    bool right = true;
    for (int64_t i = 0; i < element_count(t); ++i)
        right &= load(t->precision, t->data, i) == value;
    CHECK(right);
}

static mfa_tensor_t list_of(int32_t *data, int64_t rows, int64_t columns) {
    mfa_tensor_t list = MFA_TENSOR_INIT;
    list.precision = MFA_PRECISION_INT32;
    list.data = data;
    const int64_t shape[4] = {1, 1, rows, columns}, stride[4] = {rows * columns, rows * columns, columns, 1};
    memcpy(list.shape, shape, sizeof shape);
    memcpy(list.stride, stride, sizeof stride);
    return list;
}

enum { QUERY, KEY, VALUE, OUT, LOGSUMEXP, MASK, SINKS, DOUT, DQUERY, DKEY, DVALUE, DBIAS, DSINKS, TENSORS };

/* One call of either pass for all sequences; or only how it would run, if that is asked for. */
static void run(mfa_context_t context, plan_t *plan, mfa_tensor_t t[TENSORS], bool is_backward, mfa_plan_t *said) {
    const case_t *c = plan->c;
    const int64_t count = plan->lengths->count;
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = &t[QUERY], forward.key = &t[KEY], forward.value = &t[VALUE];
    forward.out = &t[OUT], forward.logsumexp = &t[LOGSUMEXP];
    forward.softmax_scale = -0.25f;
    forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    forward.flags = c->features & 1 ? MFA_ATTENTION_CAUSAL : 0;
    forward.window_left = c->features & 2 ? 9 : -1;
    forward.softcap = c->features & 4 ? 0.7f : 0;
    forward.additive_mask = c->features & 8 ? &t[MASK] : NULL;
    forward.sinks = c->features & 16 ? &t[SINKS] : NULL;
    forward.dropout_p = c->features & 32 ? 0.3f : 0;
    forward.dropout_seed = 99;
    mfa_tensor_t query_starts = list_of(plan->query_starts, 1, count + 1);
    mfa_tensor_t key_starts = list_of(plan->key_starts, 1, count + 1);
    mfa_tensor_t query_lengths = list_of(plan->query_lengths, 1, count);
    mfa_tensor_t key_lengths = list_of(plan->key_lengths, 1, count);
    mfa_tensor_t padding = list_of(plan->padding, 1, count), key_batches = list_of(plan->key_batches, 1, count);
    mfa_tensor_t page_table = list_of(plan->pages, count, plan->pages_each);
    mfa_sequences_t sequences = MFA_SEQUENCES_INIT;
    const bool packed = c->layout == PACKED || c->layout == PARTLY_PACKED;
    sequences.query_starts = packed ? &query_starts : NULL;
    sequences.key_starts = packed ? &key_starts : NULL;
    sequences.query_lengths = c->layout != PACKED ? &query_lengths : NULL;
    sequences.key_lengths = c->layout != PACKED ? &key_lengths : NULL;
    sequences.left_padding = c->layout == LEFT_PADDED || c->layout == PAGED ? &padding : NULL;
    sequences.key_batches = c->layout == CACHE ? &key_batches : NULL;
    sequences.most_queries = plan->most_queries;
    sequences.most_keys = plan->most_keys;
    forward.sequences = &sequences;
    mfa_pages_t pages = MFA_PAGES_INIT;
    pages.page_table = &page_table;
    forward.pages = c->layout == PAGED ? &pages : NULL;
    if (!is_backward) {
        CHECK((said != NULL ? mfa_attention_forward_plan(context, &forward, said)
                            : mfa_attention_forward_desc(context, &forward)) == MFA_SUCCESS);
        return;
    }
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &t[DOUT];
    backward.dquery = &t[DQUERY], backward.dkey = &t[DKEY], backward.dvalue = &t[DVALUE];
    backward.dbias = c->features & 8 ? &t[DBIAS] : NULL;
    backward.dsinks = c->features & 16 ? &t[DSINKS] : NULL;
    CHECK((said != NULL ? mfa_attention_backward_plan(context, &backward, said)
                        : mfa_attention_backward_desc(context, &backward)) == MFA_SUCCESS);
}

static void check_results(const plan_t *plan, mfa_tensor_t t[TENSORS]) {
    static const double epsilon[] = {0x1p-11, 0x1p-8, 0x1p-24};
    const case_t *c = plan->c;
    const double bound = (c->precision == MFA_PRECISION_FP32 ? 64 : 8) * epsilon[c->precision];
    double *dbias = zeros(plan->most_queries * plan->most_keys), dsinks[H] = {0};
    for (int64_t b = 0; b < plan->lengths->count; ++b) {
        const int64_t queries = plan->lengths->queries[b], keys = plan->lengths->keys[b];
        mfa_tensor_t q = take_sequence(plan, &t[QUERY], query_place, b, queries);
        mfa_tensor_t k = take_sequence(plan, &t[KEY], key_place, b, keys);
        mfa_tensor_t v = take_sequence(plan, &t[VALUE], key_place, b, keys);
        mfa_tensor_t dout = take_sequence(plan, &t[DOUT], query_place, b, queries);
        mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
        desc.query = &q, desc.key = &k, desc.value = &v;
        desc.softmax_scale = -0.25f;
        desc.flags = c->features & 1 ? MFA_ATTENTION_CAUSAL : 0;
        desc.window_left = c->features & 2 ? 9 : -1;
        desc.softcap = c->features & 4 ? 0.7f : 0;
        desc.additive_mask = c->features & 8 ? &t[MASK] : NULL;
        desc.sinks = c->features & 16 ? &t[SINKS] : NULL;
        desc.dropout_p = c->features & 32 ? 0.3f : 0;
        desc.dropout_seed = 99;
        naive_gradients_t g = naive_gradients_of(&desc, &dout, b);
        check_sequence(plan, &t[OUT], query_place, b, queries, g.out, bound, 0);
        check_sequence(plan, &t[LOGSUMEXP], query_place, b, queries, g.logsumexp, 1e-5, -INFINITY);
        check_sequence(plan, &t[DQUERY], query_place, b, queries, g.dquery, bound, 0);
        check_sequence(plan, &t[DKEY], key_place, b, keys, g.dkey, bound, 0);
        check_sequence(plan, &t[DVALUE], key_place, b, keys, g.dvalue, bound, 0);
        for (int64_t h = 0; h < H; ++h) {
            dsinks[h] += g.dsinks[h];
            for (int64_t i = 0; i < queries; ++i)
                for (int64_t j = 0; j < keys; ++j)
                    dbias[i * plan->most_keys + j] += g.dbias[(h * queries + i) * keys + j];
        }
        free_gradients(&g);
        free(q.data), free(k.data), free(v.data), free(dout.data);
    }
    check_all(&t[OUT], 0);
    check_all(&t[LOGSUMEXP], -INFINITY);
    check_all(&t[DQUERY], 0);
    check_all(&t[DKEY], 0);
    check_all(&t[DVALUE], 0);
    if (c->features & 8)
        CHECK(relative_difference(&t[DBIAS], dbias) < bound);
    if (c->features & 16)
        CHECK(relative_difference(&t[DSINKS], dsinks) < bound);
    free(dbias);
}

static void test_case(mfa_context_t alone, mfa_context_t many, const case_t *c, const lengths_t *lengths) {
    plan_t plan = make_plan(c, lengths);
    const int64_t one[2] = {1, 1}, of_mask[2] = {1, plan.most_queries};
    mfa_tensor_t t[TENSORS] = {
        [QUERY] = new_tensor(c, c->precision, plan.query_shape, H, c->dim),
        [KEY] = new_tensor(c, c->precision, plan.key_shape, c->kv_heads, c->dim),
        [VALUE] = new_tensor(c, c->precision, plan.key_shape, c->kv_heads, c->value_dim),
        [OUT] = new_tensor(c, c->precision, plan.query_shape, H, c->value_dim),
        [LOGSUMEXP] = new_tensor(c, MFA_PRECISION_FP32, plan.query_shape, H, 1),
        [MASK] = random_tensor(c->precision, 1, plan.most_queries, plan.most_keys),
        [SINKS] = random_tensor(MFA_PRECISION_FP32, H, 1, 1),
        [DOUT] = new_tensor(c, c->precision, plan.query_shape, H, c->value_dim),
        [DQUERY] = new_tensor(c, c->precision, plan.query_shape, H, c->dim),
        [DKEY] = new_tensor(c, c->precision, plan.key_shape, c->kv_heads, c->dim),
        [DVALUE] = new_tensor(c, c->precision, plan.key_shape, c->kv_heads, c->value_dim),
        [DBIAS] = new_tensor(c, c->precision, of_mask, 1, plan.most_keys),
        [DSINKS] = new_tensor(c, MFA_PRECISION_FP32, one, H, 1),
    };
    for (int64_t b = 0; b < lengths->count; ++b) {
        fill_sequence(&plan, &t[QUERY], query_place, b, lengths->queries[b]);
        fill_sequence(&plan, &t[DOUT], query_place, b, lengths->queries[b]);
        fill_sequence(&plan, &t[KEY], key_place, b, lengths->keys[b]);
        fill_sequence(&plan, &t[VALUE], key_place, b, lengths->keys[b]);
    }
    static const int results[] = {OUT, LOGSUMEXP, DQUERY, DKEY, DVALUE, DBIAS, DSINKS};
    enum { RESULTS = sizeof results / sizeof *results };
    char *before[RESULTS];
    run(alone, &plan, t, false, NULL);
    run(alone, &plan, t, true, NULL);
    for (int i = 0; i < RESULTS; ++i) {
        mfa_tensor_t *result = &t[results[i]];
        before[i] = malloc(size_of(result) + 1);
        memcpy(before[i], result->data, size_of(result));
        if (results[i] != DBIAS && results[i] != DSINKS) /* not every case has these */
            memset(result->data, 0xff, size_of(result));
    }
    run(many, &plan, t, false, NULL);
    run(many, &plan, t, true, NULL);
    for (int i = 0; i < RESULTS; ++i) {
        CHECK(memcmp(before[i], t[results[i]].data, size_of(&t[results[i]])) == 0);
        free(before[i]);
    }
    check_results(&plan, t);
    for (int i = 0; i < TENSORS; ++i)
        free(t[i].data);
    free(plan.pages);
}

static const lengths_t mixed = {8, {5, 0, 130, 1, 33, 17, 0, 2}, {40, 9, 300, 0, 500, 17, 0, 900}};
static const lengths_t decoding = {6, {1, 1, 3, 0, 2, 3}, {40, 0, 1100, 30, 513, 2}};

static void test_layouts(mfa_context_t alone, mfa_context_t many) {
    static const int64_t page_rows[] = {1, 3, 16, 300};
    int number = 0;
    for (layout_t layout = 0; layout < LAYOUTS; ++layout)
        for (int pages = 0; pages < (layout == PAGED ? 4 : 1); ++pages)
            for (int32_t precision = MFA_PRECISION_FP16; precision <= MFA_PRECISION_FP32; ++precision, ++number) {
                case_t c = {.precision = precision,
                            .kv_heads = number % 2 == 0 ? 1 : 2,
                            .dim = number % 3 == 0 ? 16 : 12,
                            .value_dim = number % 5 == 0 ? 16 : 5,
                            .layout = layout,
                            .page_rows = page_rows[pages],
                            .rows_first = number % 2 == 0};
                c.features = number * 11 % 64;
                test_case(alone, many, &c, &mixed);
                c.features = (number * 11 + 37) % 64;
                test_case(alone, many, &c, &decoding);
            }
}

/* Keys and values behind a sequence's lie in memory that must not be touched. */
static void test_unread(mfa_context_t context, layout_t layout, int64_t queries) {
    const lengths_t lengths = {3, {queries, queries, 1}, {64, 4096, 1024}};
    const case_t c = {
        .precision = MFA_PRECISION_FP32, .kv_heads = 1, .dim = 64, .value_dim = 64, .layout = layout, .page_rows = 64};
    plan_t plan = make_plan(&c, &lengths);
    memset(plan.padding, 0, sizeof plan.padding);
    for (int64_t b = 0; b < lengths.count; ++b)
        plan.key_lengths[b] = (int32_t)lengths.keys[b];
    plan.most_keys = plan.key_shape[1] = 4096;
    if (layout == PAGED) {
        plan.pages_each = plan.key_shape[1] = 64;
        plan.key_shape[0] = lengths.count * plan.pages_each + 1;
        for (int64_t i = 0; i < lengths.count * plan.pages_each; ++i)
            plan.pages[i] = i % 64 * 64 < lengths.keys[i / 64] ? (int32_t)(plan.key_shape[0] - 1 - i) : -1;
    }
    mfa_tensor_t t[TENSORS] = {
        [QUERY] = new_tensor(&c, c.precision, plan.query_shape, H, c.dim),
        [KEY] = new_tensor(&c, c.precision, plan.key_shape, 1, c.dim),
        [VALUE] = new_tensor(&c, c.precision, plan.key_shape, 1, c.dim),
        [OUT] = new_tensor(&c, c.precision, plan.query_shape, H, c.dim),
        [LOGSUMEXP] = new_tensor(&c, MFA_PRECISION_FP32, plan.query_shape, H, 1),
        [DOUT] = new_tensor(&c, c.precision, plan.query_shape, H, c.dim),
        [DQUERY] = new_tensor(&c, c.precision, plan.query_shape, H, c.dim),
        [DKEY] = new_tensor(&c, c.precision, plan.key_shape, 1, c.dim),
        [DVALUE] = new_tensor(&c, c.precision, plan.key_shape, 1, c.dim),
    };
    const size_t block = 64 * 64 * sizeof(float); /* of rows, whole pages of the system's */
    CHECK(block % (size_t)sysconf(_SC_PAGESIZE) == 0);
    for (int i = KEY; i <= VALUE; ++i) {
        free(t[i].data);
        t[i].data = mmap(NULL, size_of(&t[i]), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int64_t b = 0; b < lengths.count; ++b) {
            for (int64_t row = 0; row < lengths.keys[b]; row += 64)
                CHECK(mprotect((float *)t[i].data + at(&t[i], key_place(&plan, b, row), 0, 0), block,
                               PROT_READ | PROT_WRITE) == 0);
            fill_sequence(&plan, &t[i], key_place, b, lengths.keys[b]);
        }
    }
    for (int64_t b = 0; b < lengths.count; ++b) {
        fill_sequence(&plan, &t[QUERY], query_place, b, lengths.queries[b]);
        fill_sequence(&plan, &t[DOUT], query_place, b, lengths.queries[b]);
    }
    run(context, &plan, t, false, NULL);
    run(context, &plan, t, true, NULL);
    for (int i = 0; i < TENSORS; ++i)
        if (i == KEY || i == VALUE)
            munmap(t[i].data, size_of(&t[i]));
        else
            free(t[i].data);
    free(plan.pages);
}

/* How a packed call would run, whose operands are never touched. */
static mfa_plan_t plan_of(mfa_context_t context, const lengths_t *lengths, bool is_backward) {
    const case_t c = {
        .precision = MFA_PRECISION_BF16, .kv_heads = 1, .dim = 64, .value_dim = 64, .layout = PACKED, .page_rows = 1};
    plan_t plan = make_plan(&c, lengths);
    mfa_tensor_t t[TENSORS] = {{0}};
    for (int i = 0; i < TENSORS; ++i) {
        const bool of_keys = i == KEY || i == VALUE || i == DKEY || i == DVALUE;
        const int64_t rows = of_keys ? plan.key_shape[1] : plan.query_shape[1], heads = of_keys ? 1 : H;
        const int64_t columns = i == LOGSUMEXP ? 1 : 64;
        t[i] = (mfa_tensor_t)MFA_TENSOR_INIT;
        t[i].precision = i == LOGSUMEXP ? MFA_PRECISION_FP32 : MFA_PRECISION_BF16;
        t[i].data = (void *)((uintptr_t)(i + 1) << 32);
        const int64_t shape[4] = {1, heads, rows, columns};
        const int64_t stride[4] = {heads * rows * columns, rows * columns, columns, 1};
        memcpy(t[i].shape, shape, sizeof shape);
        memcpy(t[i].stride, stride, sizeof stride);
    }
    mfa_plan_t said = MFA_PLAN_INIT;
    run(context, &plan, t, is_backward, &said);
    CHECK(said.status == MFA_SUCCESS && said.workspace_bytes > 0);
    return said;
}

/* A long sequence is cut as if it were alone, and short ones beside it take little memory. */
static void test_plans(mfa_context_t context) {
    const lengths_t alone = {1, {4000}, {30000}},
                    beside = {8, {1, 9, 4000, 5, 0, 7, 3, 16}, {30, 9, 30000, 5, 8, 7, 0, 16}};
    const lengths_t decoded = {1, {1}, {30000}}, decoded_beside = {4, {0, 1, 1, 20}, {10, 30000, 9, 20}};
    for (int is_backward = 0; is_backward < 2; ++is_backward) {
        const mfa_plan_t one = plan_of(context, &alone, is_backward), all = plan_of(context, &beside, is_backward);
        CHECK(all.workspace_bytes < one.workspace_bytes + one.workspace_bytes / 20);
        CHECK(all.key_splits == one.key_splits && all.num_threads == 3);
    }
    const mfa_plan_t one = plan_of(context, &decoded, false), all = plan_of(context, &decoded_beside, false);
    CHECK(one.key_splits > 16 && all.key_splits == one.key_splits);
    CHECK(all.workspace_bytes < 2 * one.workspace_bytes);
}

static mfa_context_t open_context(int32_t isa, int32_t threads) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.cpu_isa = isa;
    options.num_threads = threads;
    mfa_context_t context = NULL;
    mfa_create_context_with_options(&options, &context);
    return context;
}

int main(void) {
    int instances = 0;
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_t alone = open_context(isa, 1), many = open_context(isa, 3);
        if (alone == NULL)
            continue;
        ++instances;
        test_layouts(alone, many);
        test_plans(many);
        for (int64_t queries = 2; queries <= 40; queries += 38) {
            test_unread(many, PADDED, queries);
            test_unread(many, PAGED, queries);
        }
        mfa_destroy_context(alone);
        mfa_destroy_context(many);
    }
    CHECK(instances > 0);
    return check_report();
}

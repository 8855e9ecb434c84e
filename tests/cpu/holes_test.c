/*
 * Walks with holes: each pass over a problem whose blocks leave scores out, against the same call with a bool mask that
 * hides as much. What nobody visits is never read, and no sum waits for it. The public interface has no blocks yet.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "attn/walk.h"
#include "check.h"
#include "core/context.h"
#include "tensors.h"

enum { H = 4, THREADS = 3, MOST_SECONDS = 200 /* a sum that waits for a hole would wait for ever */ };

typedef enum { RANDOM, SPARSE, FIRST, LAST, STRIPES, NOTHING, PATTERNS } pattern_t;

typedef struct {
    int32_t precision;
    int64_t kv_heads, queries, keys, dim;
    int64_t block_rows, block_keys;
    bool per_head, causal, biased;
    int64_t window_left;
} shape_t;

typedef struct {
    mfa_tensor_t query, key, value, out, logsumexp, mask, bias, dout, dquery, dkey, dvalue, dbias;
} tensors_t;

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
    default:
        return false;
    }
}

static size_t bytes(const mfa_tensor_t *tensor) {
    static const size_t element[] = {[MFA_PRECISION_FP16] = 2, [MFA_PRECISION_BF16] = 2, [MFA_PRECISION_FP32] = 4};
    return (size_t)(tensor->shape[1] * tensor->shape[2] * tensor->shape[3]) * element[tensor->precision];
}

/* A copy of it, of its own memory. */
static mfa_tensor_t copy_of(const mfa_tensor_t *tensor) {
    mfa_tensor_t copy = *tensor;
    copy.data = malloc(bytes(tensor) + 1);
    memcpy(copy.data, tensor->data, bytes(tensor));
    return copy;
}

static bool are_same(const mfa_tensor_t *a, const mfa_tensor_t *b) { return memcmp(a->data, b->data, bytes(a)) == 0; }

static double difference(const mfa_tensor_t *a, const mfa_tensor_t *b) {
    double most = 0;
    for (int64_t i = 0; i < a->shape[1] * a->shape[2] * a->shape[3]; ++i) {
        const float x = load(a->precision, a->data, i), y = load(b->precision, b->data, i);
        const double here = largest_difference(&x, &y, 1);
        most = here > most || isnan(here) ? here : most;
    }
    return most;
}

static mfa_attention_desc_t forward_desc(const shape_t *s, tensors_t *t, bool masked) {
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &t->query;
    desc.key = &t->key;
    desc.value = &t->value;
    desc.out = &t->out;
    desc.logsumexp = &t->logsumexp;
    desc.bool_mask = masked ? &t->mask : NULL;
    desc.additive_mask = s->biased ? &t->bias : NULL;
    desc.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    desc.flags = s->causal ? MFA_ATTENTION_CAUSAL : 0;
    desc.window_left = s->window_left;
    return desc;
}

/* Runs a pass, with the blocks if there are any. */
static void run(mfa_context_t context, const shape_t *s, tensors_t *t, mfai_pass_t pass, const mfai_view_t *blocks) {
    const mfa_attention_desc_t forward = forward_desc(s, t, blocks == NULL);
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &t->dout;
    backward.dquery = &t->dquery;
    backward.dkey = &t->dkey;
    backward.dvalue = &t->dvalue;
    backward.dbias = s->biased ? &t->dbias : NULL;
    const void *desc = pass == MFAI_FORWARD ? (const void *)&forward : &backward;
    mfai_problem_t problem;
    CHECK(mfai_problem_import(context, pass, desc, &problem) == MFA_SUCCESS);
    if (blocks != NULL) {
        problem.blocks = *blocks;
        problem.block_rows = s->block_rows;
        problem.block_keys = s->block_keys;
        mfai_problem_find_features(&problem);
    }
    double seconds;
    CHECK(context->backend->run(context->device, &problem, &seconds) == MFA_SUCCESS);
}

/* NaN in the keys and values of blocks that no row has. */
static void spoil(const shape_t *s, tensors_t *t, const bool *used) {
    for (int64_t head = 0; head < s->kv_heads; ++head)
        for (int64_t key = 0; key < s->keys; ++key)
            for (int64_t c = 0; c < s->dim && !used[head * s->keys + key]; ++c) {
                store(s->precision, t->key.data, (head * s->keys + key) * s->dim + c, NAN);
                store(s->precision, t->value.data, (head * s->keys + key) * s->dim + c, NAN);
            }
}

static tensors_t make_tensors(const shape_t *s) {
    tensors_t t;
    t.query = random_tensor(s->precision, H, s->queries, s->dim);
    t.key = random_tensor(s->precision, s->kv_heads, s->keys, s->dim);
    t.value = random_tensor(s->precision, s->kv_heads, s->keys, s->dim);
    t.out = random_tensor(s->precision, H, s->queries, s->dim);
    t.logsumexp = random_tensor(MFA_PRECISION_FP32, H, s->queries, 1);
    t.mask = random_tensor(MFA_PRECISION_FP32, H, s->queries, s->keys); /* more room than it needs */
    t.mask.precision = MFA_PRECISION_BOOL;
    t.bias = random_tensor(MFA_PRECISION_FP32, 1, s->queries, s->keys);
    t.dout = copy_of(&t.out);
    t.dquery = copy_of(&t.query);
    t.dkey = copy_of(&t.key);
    t.dvalue = copy_of(&t.value);
    t.dbias = copy_of(&t.bias);
    return t;
}

static void free_tensors(tensors_t *t) {
    mfa_tensor_t *const all[] = {&t->query, &t->key,  &t->value,  &t->out,  &t->logsumexp, &t->mask,
                                 &t->bias,  &t->dout, &t->dquery, &t->dkey, &t->dvalue,    &t->dbias};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        free(all[i]->data);
}

static void test_pattern(mfa_context_t context, const shape_t *s, pattern_t pattern) {
    const int64_t block_rows = (s->queries + s->block_rows - 1) / s->block_rows;
    const int64_t blocks = (s->keys + s->block_keys - 1) / s->block_keys, words = blocks / MFA_BLOCK_BITS + 1;
    const int64_t heads = s->per_head ? H : 1;
    tensors_t masked = make_tensors(s);
    uint32_t *bits = calloc((size_t)(heads * block_rows * words), sizeof *bits);
    bool *used = calloc((size_t)(s->kv_heads * s->keys), sizeof *used);
    for (int64_t head = 0; head < heads; ++head)
        for (int64_t row = 0; row < block_rows; ++row)
            for (int64_t block = 0; block < blocks; ++block)
                if (is_set(pattern, head, row, block_rows, block, blocks))
                    bits[(head * block_rows + row) * words + block / MFA_BLOCK_BITS] |= 1u << block % MFA_BLOCK_BITS;
    for (int64_t head = 0; head < H; ++head)
        for (int64_t row = 0; row < s->queries; ++row)
            for (int64_t key = 0; key < s->keys; ++key) {
                const int64_t block = key / s->block_keys;
                const uint32_t *of_row = bits + (head % heads * block_rows + row / s->block_rows) * words;
                const bool is_seen = mfa_rule_bit(of_row[block / MFA_BLOCK_BITS], block);
                ((char *)masked.mask.data)[(head * s->queries + row) * s->keys + key] = is_seen;
                used[head / (H / s->kv_heads) * s->keys + key] |= is_seen;
            }
    const mfai_view_t view = {.present = true,
                              .format = MFAI_FORMAT_UINT32,
                              .data = (char *)bits,
                              .shape = {1, heads, block_rows, words},
                              .stride = {0, heads > 1 ? block_rows * words : 0, words, 1}};

    tensors_t holes = masked;
    mfa_tensor_t *const own[] = {&holes.key,    &holes.value, &holes.out,    &holes.logsumexp,
                                 &holes.dquery, &holes.dkey,  &holes.dvalue, &holes.dbias};
    for (size_t i = 0; i < sizeof own / sizeof *own; ++i)
        *own[i] = copy_of(own[i]);
    spoil(s, &holes, used);
    run(context, s, &masked, MFAI_FORWARD, NULL);
    run(context, s, &holes, MFAI_FORWARD, &view);
    /* Tiles begin elsewhere where there are holes, so that sums round differently. */
    CHECK(difference(&holes.out, &masked.out) < (s->precision == MFA_PRECISION_FP32 ? 1e-5 : 2e-2));
    CHECK(difference(&holes.logsumexp, &masked.logsumexp) < 1e-5);

    memcpy(holes.out.data, masked.out.data, bytes(&masked.out));
    memcpy(holes.logsumexp.data, masked.logsumexp.data, bytes(&masked.logsumexp));
    run(context, s, &masked, MFAI_BACKWARD, NULL);
    run(context, s, &holes, MFAI_BACKWARD, &view);
    CHECK(are_same(&holes.dquery, &masked.dquery));
    CHECK(are_same(&holes.dkey, &masked.dkey));
    CHECK(are_same(&holes.dvalue, &masked.dvalue));
    CHECK(!s->biased || are_same(&holes.dbias, &masked.dbias));
    for (size_t i = 0; i < sizeof own / sizeof *own; ++i)
        free(own[i]->data);
    free_tensors(&masked);
    free(bits), free(used);
}

/* Keys and values that lie in pages which must not be touched, behind the first `there`. */
static char *guarded(const mfa_tensor_t *tensor, int64_t there) {
    char *memory = mmap(NULL, bytes(tensor), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(memory, tensor->data, bytes(tensor));
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t begin = (bytes(tensor) / (size_t)tensor->shape[2] * (size_t)there + page - 1) / page * page;
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
                 .block_rows = 32,
                 .block_keys = 64,
                 .window_left = -1};
    tensors_t t = make_tensors(&s);
    uint32_t bits[2] = {1, 0};
    const mfai_view_t view = {.present = true, .data = (char *)bits, .shape = {1, 1, 1, 2}, .stride = {0, 0, 0, 1}};
    char *const key = t.key.data, *const value = t.value.data;
    for (int pass = MFAI_FORWARD; pass <= MFAI_BACKWARD; ++pass) {
        const int64_t there = pass == MFAI_FORWARD ? 64 : 384; /* blocks of keys of the backward pass are whole tiles */
        t.key.data = guarded(&t.key, there);
        t.value.data = guarded(&t.value, there);
        run(context, &s, &t, pass, &view);
        munmap(t.key.data, bytes(&t.key));
        munmap(t.value.data, bytes(&t.value));
        t.key.data = key;
        t.value.data = value;
    }
    free_tensors(&t);
}

static void test_context(mfa_context_t context) {
    static const shape_t shapes[] = {
        /* precision, kv_heads, queries, keys, dim, block_rows, block_keys, per_head, causal, biased, window_left */
        {MFA_PRECISION_FP32, H, 130, 900, 16, 32, 64, true, false, false, -1},
        {MFA_PRECISION_FP32, 2, 101, 450, 5, 7, 45, true, true, false, -1},
        {MFA_PRECISION_FP32, 1, 200, 801, 8, 96, 384, false, false, true, -1},
        {MFA_PRECISION_FP32, 1, 3, 1200, 16, 1, 100, true, true, true, 1000}, /* few rows, split keys */
        {MFA_PRECISION_BF16, 2, 120, 421, 12, 10, 13, true, false, false, 150},
        {MFA_PRECISION_BF16, 1, 4, 640, 20, 3, 31, true, true, false, -1},
        {MFA_PRECISION_FP16, H, 33, 95, 3, 64, 16, false, true, false, 70},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i)
        for (pattern_t pattern = 0; pattern < PATTERNS; ++pattern)
            test_pattern(context, &shapes[i], pattern);
    test_unread(context, 2);
    test_unread(context, 40);
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
        ++instances;
        test_context(context);
        mfa_destroy_context(context);
    }
    CHECK(instances > 0);
    return check_report();
}

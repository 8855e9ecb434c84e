/*
 * Lists of sequences that the CPU cannot read: the bits that readable ones give, and no access out of bounds whatever
 * they hold, of floats and of codes. Packed sequences cost what each of them costs alone.
 */
#import <Metal/Metal.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "core/context.h"
#include "emulator.h"
#include "metal/device.h"
#include "mfa.h"
#include "naive.h"

enum { SEQUENCES = 4, HEADS = 4, KV_HEADS = 2, DIM = 16, PAGE = 5, PAGES = 60, ENTRIES = 12, POSITIONS = 120 };
enum {
    QUERY_STARTS,
    KEY_STARTS,
    QUERY_LENGTHS,
    KEY_LENGTHS,
    LEFT_PADDING,
    KEY_BATCHES,
    PAGE_TABLE,
    NEW_STARTS,
    ROTARY_POSITIONS,
    LISTS
};

static mfa_context_t context;
static id<MTLDevice> device;
static id<MTLCommandQueue> queue;

/* Shapes, and the content of each list that is there. */
typedef struct {
    int64_t query_batches, query_rows, key_batches, key_rows, most_queries, most_keys;
    bool is_forward_only, has_mask;
    const int32_t *lists[LISTS];
    int64_t new_rows;           /* that are appended, to each or, packed, to all; 0: it is no such call */
    bool has_codes, is_integer; /* is_integer: MFA_COMPUTE_INT8 */
} case_t;

static int64_t entries_of(int list) {
    return list <= KEY_STARTS || list == NEW_STARTS ? SEQUENCES + 1
           : list == PAGE_TABLE                     ? SEQUENCES * ENTRIES
                                                    : SEQUENCES;
}

enum {
    QUERY,
    KEY,
    VALUE,
    OUT,
    LOGSUMEXP,
    DOUT,
    DQUERY,
    DKEY,
    DVALUE,
    MASK,
    NEW_KEY,
    NEW_VALUE,
    COSINES,
    SINES,
    KEY_SCALES,
    VALUE_SCALES,
    ZERO_POINTS,
    MEAN,
    OPERANDS
};

typedef struct {
    mfa_buffer_t operands[OPERANDS], lists[LISTS];
    mfa_tensor_t tensors[OPERANDS], list_tensors[LISTS];
    mfa_sequences_t sequences;
    mfa_pages_t pages;
    mfa_append_t append;
    mfa_quantization_t key_quantization, value_quantization;
    mfa_attention_desc_t forward;
    mfa_attention_backward_desc_t backward;
} call_t;

static mfa_tensor_t tensor(mfa_buffer_t buffer, int32_t precision, int64_t a, int64_t b, int64_t c, int64_t d) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {a, b, c, d}, stride[4] = {b * c * d, c * d, d, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.buffer = buffer;
    t.precision = precision;
    return t;
}

static void open_operand(call_t *call, int operand, int64_t batches, int64_t heads, int64_t rows, int64_t columns) {
    const size_t count = (size_t)(batches * heads * rows * columns), element = operand == MASK ? 1 : sizeof(float);
    CHECK(mfa_create_buffer(context, count * element, &call->operands[operand]) == MFA_SUCCESS);
    call->tensors[operand] = tensor(call->operands[operand], operand == MASK ? MFA_PRECISION_BOOL : MFA_PRECISION_FP32,
                                    batches, heads, rows, columns);
    float *elements = mfa_buffer_contents(call->operands[operand]);
    if (operand == MASK)
        memset(elements, 1, count);
    else
        for (size_t i = 0; i < count; ++i)
            elements[i] = random_float();
}

/* Keys become codes of 8 bits, values of 4; each row has scales of its own. */
static void open_codes(const case_t *c, call_t *call) {
    for (int i = KEY_SCALES; i <= ZERO_POINTS; ++i)
        open_operand(call, i, c->key_batches, KV_HEADS, c->key_rows, 1);
    open_operand(call, MEAN, SEQUENCES, KV_HEADS, 1, DIM);
    float *scales[] = {mfa_buffer_contents(call->operands[KEY_SCALES]),
                       mfa_buffer_contents(call->operands[VALUE_SCALES])};
    int32_t *zero_points = mfa_buffer_contents(call->operands[ZERO_POINTS]);
    for (int64_t i = 0; i < c->key_batches * KV_HEADS * c->key_rows; ++i) {
        scales[0][i] = 0.01f + 0.001f * (float)(i % 7);
        scales[1][i] = 0.1f + 0.01f * (float)(i % 5);
        zero_points[i] = (int32_t)(i % 11);
    }
    call->tensors[KEY].precision = MFA_PRECISION_INT8;
    call->tensors[VALUE].precision = MFA_PRECISION_INT4;
    call->tensors[ZERO_POINTS].precision = MFA_PRECISION_INT32;
    call->key_quantization.rows = call->value_quantization.rows = 1;
    call->key_quantization.scales = &call->tensors[KEY_SCALES];
    call->key_quantization.zero_points = &call->tensors[ZERO_POINTS];
    call->key_quantization.mean = &call->tensors[MEAN];
    call->value_quantization.scales = &call->tensors[VALUE_SCALES];
    call->forward.key_quantization = &call->key_quantization;
    call->forward.value_quantization = &call->value_quantization;
    call->forward.compute_mode = c->is_integer ? MFA_COMPUTE_INT8 : MFA_COMPUTE_EXACT;
    call->backward.flags = MFA_BACKWARD_ZERO_CLIPPED;
}

/* In the emulator a GPU address is one of the process, private storage or not. */
static void open_list(call_t *call, int list, const int32_t *content, bool is_private) {
    const size_t bytes = (size_t)entries_of(list) * sizeof *content;
    id<MTLBuffer> buffer =
        [device newBufferWithLength:bytes
                            options:is_private ? MTLResourceStorageModePrivate : MTLResourceStorageModeShared];
    memcpy((void *)[buffer gpuAddress], content, bytes);
    CHECK(mfa_buffer_from_mtl_buffer(context, buffer, &call->lists[list]) == MFA_SUCCESS);
    CHECK((mfa_buffer_contents(call->lists[list]) == NULL) == is_private);
    [buffer release];
    call->list_tensors[list] = tensor(call->lists[list], MFA_PRECISION_INT32, 1, 1, list == PAGE_TABLE ? SEQUENCES : 1,
                                      list == PAGE_TABLE ? ENTRIES : entries_of(list));
}

static const mfa_tensor_t *list_of(const call_t *call, int list) {
    return call->lists[list] != NULL ? &call->list_tensors[list] : NULL;
}

static void open_call(const case_t *c, bool is_private, call_t *call) {
    *call = (call_t){.sequences = MFA_SEQUENCES_INIT,
                     .pages = MFA_PAGES_INIT,
                     .append = MFA_APPEND_INIT,
                     .key_quantization = MFA_QUANTIZATION_INIT,
                     .value_quantization = MFA_QUANTIZATION_INIT,
                     .forward = MFA_ATTENTION_DESC_INIT,
                     .backward = MFA_ATTENTION_BACKWARD_DESC_INIT};
    srand(1);
    for (int i = QUERY; i < MASK; ++i) {
        const bool is_key = i == KEY || i == VALUE || i == DKEY || i == DVALUE;
        open_operand(call, i, is_key ? c->key_batches : c->query_batches, is_key ? KV_HEADS : HEADS,
                     is_key ? c->key_rows : c->query_rows, i == LOGSUMEXP ? 1 : DIM);
    }
    if (c->has_mask)
        open_operand(call, MASK, SEQUENCES, 1, c->most_queries, c->most_keys);
    for (int i = NEW_KEY; i <= NEW_VALUE && c->new_rows > 0; ++i)
        open_operand(call, i, c->lists[NEW_STARTS] != NULL ? 1 : SEQUENCES, KV_HEADS, c->new_rows, DIM);
    for (int i = COSINES; i <= SINES && c->new_rows > 0; ++i)
        open_operand(call, i, 1, 1, POSITIONS, DIM / 2);
    if (c->has_codes)
        open_codes(c, call);
    for (int i = 0; i < LISTS; ++i)
        if (c->lists[i] != NULL)
            open_list(call, i, c->lists[i], is_private);
    call->sequences.query_starts = list_of(call, QUERY_STARTS);
    call->sequences.key_starts = list_of(call, KEY_STARTS);
    call->sequences.query_lengths = list_of(call, QUERY_LENGTHS);
    call->sequences.key_lengths = list_of(call, KEY_LENGTHS);
    call->sequences.left_padding = list_of(call, LEFT_PADDING);
    call->sequences.key_batches = list_of(call, KEY_BATCHES);
    call->sequences.most_queries = c->most_queries;
    call->sequences.most_keys = c->most_keys;
    call->pages.page_table = list_of(call, PAGE_TABLE);
    call->append.key = &call->tensors[NEW_KEY];
    call->append.value = &call->tensors[NEW_VALUE];
    call->append.starts = list_of(call, NEW_STARTS);
    call->append.rotary_cos = &call->tensors[COSINES];
    call->append.rotary_sin = &call->tensors[SINES];
    call->append.rotary_positions = list_of(call, ROTARY_POSITIONS);
    call->forward.append = c->new_rows > 0 ? &call->append : NULL;
    call->forward.query = &call->tensors[QUERY];
    call->forward.key = &call->tensors[KEY];
    call->forward.value = &call->tensors[VALUE];
    call->forward.out = &call->tensors[OUT];
    call->forward.logsumexp = &call->tensors[LOGSUMEXP];
    call->forward.bool_mask = c->has_mask ? &call->tensors[MASK] : NULL;
    call->forward.sequences = &call->sequences;
    call->forward.pages = c->lists[PAGE_TABLE] != NULL ? &call->pages : NULL;
    call->forward.flags = MFA_ATTENTION_CAUSAL;
    call->forward.alignment = MFA_ALIGN_BOTTOM_RIGHT;
    call->forward.window_left = 40;
    call->backward.forward = &call->forward;
    call->backward.dout = &call->tensors[DOUT];
    call->backward.dquery = &call->tensors[DQUERY];
    call->backward.dkey = &call->tensors[DKEY];
    call->backward.dvalue = &call->tensors[DVALUE];
}

static void close_call(call_t *call) {
    for (int i = 0; i < OPERANDS; ++i)
        mfa_destroy_buffer(call->operands[i]);
    for (int i = 0; i < LISTS; ++i)
        mfa_destroy_buffer(call->lists[i]);
}

static void run(const case_t *c, call_t *call) {
    CHECK(mfa_attention_forward_desc(context, &call->forward) == MFA_SUCCESS);
    if (!c->is_forward_only)
        CHECK(mfa_attention_backward_desc(context, &call->backward) == MFA_SUCCESS);
}

static void encode(const case_t *c, call_t *call) {
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
    CHECK(mfa_attention_forward_encode(context, &call->forward, encoder) == MFA_SUCCESS);
    if (!c->is_forward_only)
        CHECK(mfa_attention_backward_encode(context, &call->backward, encoder) == MFA_SUCCESS);
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    CHECK([commands status] == MTLCommandBufferStatusCompleted);
}

static void check_same(const call_t *a, const call_t *b) {
    for (int i = 0; i < OPERANDS; ++i)
        CHECK(a->operands[i] == NULL || memcmp(mfa_buffer_contents(a->operands[i]), mfa_buffer_contents(b->operands[i]),
                                               mfa_buffer_size(a->operands[i])) == 0);
}

/* ------------------------------------------------------------------ lists that cannot be read */

static const int32_t query_starts[] = {0, 70, 70, 103, 167}, key_starts[] = {0, 90, 97, 150, 150};
static const int32_t query_lengths[] = {60, 0, 33, 64}, key_lengths[] = {90, 7, 40, 0}, left_padding[] = {3, 7, 0, 0};
static const int32_t most_lengths[] = {58, 1, 0, 60}, few_padding[] = {3, 1, 0, 5}, few_queries[] = {3, 0, 2, 1},
                     key_batches[] = {5, 0, 2, 3};
static int32_t page_table[SEQUENCES * ENTRIES];

static const case_t packed = {
    1,     170,   1,
    155,   70,    90,
    false, false, {query_starts, key_starts, query_lengths, key_lengths, left_padding, NULL, NULL},
    0,     false, false};
static const case_t padded = {SEQUENCES, 70,    SEQUENCES,
                              60,        70,    60,
                              false,     true,  {NULL, NULL, query_lengths, most_lengths, few_padding, NULL, NULL},
                              0,         false, false};
/* Gradients of keys in pages need lists that can be read. */
static const case_t paged = {
    SEQUENCES, 70,    PAGES,
    PAGE,      70,    PAGE *ENTRIES,
    true,      true,  {NULL, NULL, query_lengths, most_lengths, most_lengths, NULL, page_table},
    0,         false, false};
static const case_t decoded_pages = {SEQUENCES, 3,     PAGES,
                                     PAGE,      3,     PAGE *ENTRIES,
                                     true,      true,  {NULL, NULL, few_queries, most_lengths, NULL, NULL, page_table},
                                     0,         false, false};
static const case_t batches = {
    SEQUENCES, 3,     6,
    100,       3,     100,
    true,      false, {NULL, NULL, few_queries, key_lengths, left_padding, key_batches, NULL},
    0,         false, false};

/* Tiled and decoded, packed and not, by positions of their own and by lengths. */
static const int32_t new_starts[] = {0, 4, 4, 7, 10}, positions[] = {0, 100, 5, 60}, some_lengths[] = {50, 1, 0, 57};
static const case_t appended_pages = {
    .query_batches = SEQUENCES,
    .query_rows = 20,
    .key_batches = PAGES,
    .key_rows = PAGE,
    .most_queries = 20,
    .most_keys = PAGE * ENTRIES,
    .is_forward_only = true,
    .lists = {[KEY_LENGTHS] = some_lengths,
              [PAGE_TABLE] = page_table,
              [NEW_STARTS] = new_starts,
              [ROTARY_POSITIONS] = positions},
    .new_rows = 12,
};
static const case_t appended_batches = {
    .query_batches = SEQUENCES,
    .query_rows = 3,
    .key_batches = 6,
    .key_rows = 100,
    .most_queries = 3,
    .most_keys = 100,
    .is_forward_only = true,
    .lists = {[KEY_LENGTHS] = key_lengths, [LEFT_PADDING] = left_padding, [KEY_BATCHES] = key_batches},
    .new_rows = 3,
};

static const case_t *const cases[] = {&packed,  &padded,         &paged,           &decoded_pages,
                                      &batches, &appended_pages, &appended_batches};
enum { CASES = sizeof cases / sizeof *cases };

static case_t coded(case_t c, bool is_integer) {
    c.has_codes = true;
    c.is_integer = is_integer;
    return c;
}

static void test_private(const case_t *c) {
    call_t readable, hidden, encoded;
    open_call(c, false, &readable);
    open_call(c, true, &hidden);
    open_call(c, true, &encoded);
    run(c, &readable);
    run(c, &hidden);
    encode(c, &encoded);
    check_same(&readable, &hidden);
    check_same(&readable, &encoded);
    close_call(&readable);
    close_call(&hidden);
    close_call(&encoded);
}

/* A launch for each threadgroup, of whatever comes before attention, too. */
static void test_cut(const case_t *c) {
    mfai_metal_device_t *metal = context->device;
    const uint64_t most_work = metal->most_work;
    call_t whole, cut;
    open_call(c, true, &whole);
    open_call(c, true, &cut);
    run(c, &whole);
    metal->most_work = 1;
    run(c, &cut);
    metal->most_work = most_work;
    check_same(&whole, &cut);
    close_call(&whole);
    close_call(&cut);
}

/* ------------------------------------------------------------------ whatever they hold */

static int32_t some_number(void) {
    static const int32_t numbers[] = {INT_MIN, -1, 0, 1, 2, 7, 40, 69, 1000, INT_MAX};
    return numbers[rand() % (int)(sizeof numbers / sizeof *numbers)];
}

static int ascending(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Two sequences that claim one row both write it, which is no access out of bounds. */
static void expect_no_fault(mfa_status_t status, bool may_race) {
    const bool raced = may_race && strstr(mfa_last_error_message(NULL), ": race: ") != NULL;
    CHECK(status == MFA_SUCCESS || raced);
    if (status != MFA_SUCCESS && !raced)
        fprintf(stderr, "%s\n", mfa_last_error_message(NULL));
}

/* `is_sorted`: starts ascend, as those that say where rows lie have to if no two sequences are to share any. */
static void test_hostile(case_t c, bool is_sorted, unsigned seed) {
    int32_t contents[LISTS][SEQUENCES * ENTRIES];
    srand(seed);
    for (int i = 0; i < LISTS; ++i) {
        for (int j = 0; j < entries_of(i); ++j)
            contents[i][j] = some_number();
        if (is_sorted && (i <= KEY_STARTS || i == NEW_STARTS))
            qsort(contents[i], SEQUENCES + 1, sizeof(int32_t), ascending);
        c.lists[i] = c.lists[i] != NULL ? contents[i] : NULL;
    }
    call_t call;
    open_call(&c, true, &call);
    const mfa_status_t status = mfa_attention_forward_desc(context, &call.forward);
    expect_no_fault(status, !is_sorted || c.new_rows > 0);
    if (!c.is_forward_only)
        expect_no_fault(mfa_attention_backward_desc(context, &call.backward), !is_sorted);
    close_call(&call);
}

/* ------------------------------------------------------------------ cost */

/* Multiplications and barriers of sequences in one call are the sums of those of calls for each. */
static void test_cost(void) {
    static const int32_t starts[] = {0, 64, 73, 273, 283};
    case_t c = {1, 283,   1,    283, 200, 200, false, false, {starts, starts, NULL, NULL, NULL, NULL, NULL},
                0, false, false};
    emu_counters together, alone;
    call_t call;
    open_call(&c, true, &call);
    emu_counters_reset();
    run(&c, &call);
    emu_counters_read(&together);
    call.forward.sequences = NULL;
    emu_counters_reset();
    for (int i = 0; i < SEQUENCES; ++i) {
        for (int j = 0; j < MASK; ++j) {
            call.tensors[j].shape[2] = starts[i + 1] - starts[i];
            call.tensors[j].byte_offset = (uint64_t)(starts[i] * call.tensors[j].stride[2]) * sizeof(float);
        }
        run(&c, &call);
    }
    emu_counters_read(&alone);
    CHECK(together.matrix_multiplies == alone.matrix_multiplies);
    CHECK(together.exponentials == alone.exponentials);
    CHECK(together.threadgroup_barriers == alone.threadgroup_barriers);
    close_call(&call);
}

static uint64_t count_threadgroups(const case_t *c, call_t *call) {
    emu_counters counters;
    open_call(c, true, call);
    emu_counters_reset();
    run(c, call);
    emu_counters_read(&counters);
    return counters.launches;
}

/* Who states more rows than there is room for does not have threadgroups for them. */
static void test_stated_lengths(case_t c) {
    mfai_metal_device_t *metal = context->device;
    const uint64_t most_work = metal->most_work;
    metal->most_work = 1; /* a launch for each threadgroup */
    call_t exact, stated;
    c.has_mask = false;
    const uint64_t threadgroups = count_threadgroups(&c, &exact);
    c.most_queries = c.most_keys = 3000;
    CHECK(count_threadgroups(&c, &stated) == threadgroups);
    check_same(&exact, &stated);
    close_call(&exact);
    close_call(&stated);
    metal->most_work = most_work;
}

static void open_context(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
}

int main(void) {
    @autoreleasepool {
        device = MTLCreateSystemDefaultDevice();
        queue = [device newCommandQueue];
        for (int i = 0; i < SEQUENCES * ENTRIES; ++i)
            page_table[i] = i * 7 % PAGES;
        open_context();
        for (int i = 0; i < CASES; ++i)
            test_private(cases[i]);
        for (int i = 0; i < CASES; ++i)
            for (int is_integer = 0; is_integer < 2; ++is_integer) {
                const case_t c = coded(*cases[i], is_integer);
                test_private(&c);
                test_cut(&c);
            }
        test_cost();
        test_stated_lengths(packed);
        test_stated_lengths(padded);
        mfa_destroy_context(context);

        setenv("METAL_EMULATOR_MODE", "checked", 1);
        open_context();
        for (unsigned seed = 0; seed < 8; ++seed) {
            for (int i = 0; i < CASES; ++i) {
                const bool is_sorted = cases[i] != &packed || seed % 2 == 0;
                test_hostile(*cases[i], is_sorted, seed);
                test_hostile(coded(*cases[i], seed / 2 % 2 != 0), is_sorted, seed);
            }
        }
        mfa_destroy_context(context);
        [queue release];
        [device release];
    }
    return check_report();
}

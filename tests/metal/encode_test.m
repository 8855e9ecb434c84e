/* Metal buffers of the caller's, and calls encoded into command buffers and encoders of the caller's. */
#import <Metal/Metal.h>
#include <math.h>
#include <sys/mman.h>

#include "check.h"
#include "mfa.h"

enum { SEQUENCE = 20, HEADS = 2, HEAD_DIM = 16, ELEMENTS = SEQUENCE * HEADS * HEAD_DIM, BYTES = ELEMENTS * 4 };

static mfa_context_t context;
static id<MTLDevice> device;
static id<MTLCommandQueue> queue;

typedef struct {
    mfa_buffer_t query, key, value, out, logsumexp, dout, dquery;
} buffers_t;

static mfa_buffer_t filled(float phase) {
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_buffer(context, BYTES, &buffer) == MFA_SUCCESS);
    float *elements = mfa_buffer_contents(buffer);
    for (int i = 0; i < ELEMENTS; ++i)
        elements[i] = sinf(phase + 0.7f * (float)i);
    return buffer;
}

static mfa_buffer_t zeroed(size_t size) {
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_create_buffer(context, size, &buffer) == MFA_SUCCESS);
    return buffer;
}

static buffers_t open_buffers(void) {
    return (buffers_t){filled(0), filled(1),    filled(2), zeroed(BYTES), zeroed(SEQUENCE * HEADS * 4),
                       filled(3), zeroed(BYTES)};
}

static void close_buffers(buffers_t *b) {
    mfa_buffer_t all[] = {b->query, b->key, b->value, b->out, b->logsumexp, b->dout, b->dquery};
    for (size_t i = 0; i < sizeof all / sizeof *all; ++i)
        mfa_destroy_buffer(all[i]);
}

static mfa_tensor_t tensor(mfa_buffer_t buffer, int64_t width) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {1, HEADS, SEQUENCE, width}, stride[4] = {0, width, HEADS * width, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.buffer = buffer;
    return t;
}

/* A forward call and its backward call over some buffers; the descriptors point into the struct itself. */
typedef struct {
    mfa_tensor_t query, key, value, out, logsumexp, dout, dquery;
    mfa_attention_desc_t forward;
    mfa_attention_backward_desc_t backward;
} call_t;

static void describe(const buffers_t *b, call_t *call) {
    *call = (call_t){tensor(b->query, HEAD_DIM),  tensor(b->key, HEAD_DIM), tensor(b->value, HEAD_DIM),
                     tensor(b->out, HEAD_DIM),    tensor(b->logsumexp, 1),  tensor(b->dout, HEAD_DIM),
                     tensor(b->dquery, HEAD_DIM), MFA_ATTENTION_DESC_INIT,  MFA_ATTENTION_BACKWARD_DESC_INIT};
    call->forward.query = &call->query;
    call->forward.key = &call->key;
    call->forward.value = &call->value;
    call->forward.out = &call->out;
    call->forward.logsumexp = &call->logsumexp;
    call->backward.forward = &call->forward;
    call->backward.dout = &call->dout;
    call->backward.dquery = &call->dquery;
}

static int same(mfa_buffer_t a, mfa_buffer_t b) {
    return memcmp(mfa_buffer_contents(a), mfa_buffer_contents(b), mfa_buffer_size(a)) == 0;
}

/* What the calls give when they are run and waited for. */
static buffers_t expected(void) {
    buffers_t b = open_buffers();
    call_t call;
    describe(&b, &call);
    CHECK(mfa_attention_forward_desc(context, &call.forward) == MFA_SUCCESS);
    CHECK(mfa_attention_backward_desc(context, &call.backward) == MFA_SUCCESS);
    return b;
}

static void encode_both(const call_t *call, id target) {
    CHECK(mfa_attention_forward_encode(context, &call->forward, target) == MFA_SUCCESS);
    CHECK(mfa_attention_backward_encode(context, &call->backward, target) == MFA_SUCCESS);
}

static void run(id<MTLCommandBuffer> commands) {
    [commands commit];
    [commands waitUntilCompleted];
    CHECK([commands status] == MTLCommandBufferStatusCompleted);
}

/* The backward call reads what the forward call writes. */
static void test_command_buffer(const buffers_t *wanted) {
    buffers_t b = open_buffers();
    call_t call;
    describe(&b, &call);
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    encode_both(&call, commands);
    CHECK([commands status] < MTLCommandBufferStatusCommitted);
    CHECK(!same(b.out, wanted->out));
    run(commands);
    CHECK(same(b.out, wanted->out) && same(b.logsumexp, wanted->logsumexp) && same(b.dquery, wanted->dquery));
    close_buffers(&b);
}

static void test_encoder(const buffers_t *wanted, MTLDispatchType type) {
    buffers_t b = open_buffers();
    call_t call;
    describe(&b, &call);
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:type];
    encode_both(&call, encoder);
    [encoder endEncoding];
    run(commands);
    CHECK(same(b.out, wanted->out) && same(b.logsumexp, wanted->logsumexp) && same(b.dquery, wanted->dquery));
    close_buffers(&b);
}

/* Without keys there is nothing to do for dkey, but dsinks reads what another kernel wrote all the same. */
static void test_gradient_with_nothing_to_do(void) {
    buffers_t b = open_buffers();
    call_t call;
    describe(&b, &call);
    mfa_tensor_t sinks = tensor(b.query, 1), dsinks = tensor(b.dquery, 1), dkey = call.key;
    sinks.shape[2] = dsinks.shape[2] = 1;
    call.key.shape[2] = call.value.shape[2] = dkey.shape[2] = 0;
    dkey.buffer = NULL;
    call.forward.sinks = &sinks;
    call.backward.dquery = NULL;
    call.backward.dkey = &dkey;
    call.backward.dsinks = &dsinks;
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
    encode_both(&call, encoder);
    [encoder endEncoding];
    run(commands);
    const float *gradients = mfa_buffer_contents(b.dquery);
    for (int head = 0; head < HEADS; ++head)
        CHECK(gradients[head] == 0);
    close_buffers(&b);
}

/* What is made of lists of blocks is waited for, in an encoder that orders nothing by itself. */
static void test_blocks(void) {
    enum { BLOCK = 8, LINES = 3 };
    buffers_t b = open_buffers(), waited = open_buffers();
    mfa_buffer_t numbers = zeroed(LINES * 4), indices = zeroed(LINES * LINES * 4);
    for (int line = 0; line < LINES; ++line) { /* all blocks up to the diagonal but the first */
        ((int32_t *)mfa_buffer_contents(numbers))[line] = line;
        for (int i = 0; i < line; ++i)
            ((int32_t *)mfa_buffer_contents(indices))[line * LINES + i] = i + 1;
    }
    mfa_tensor_t counts = tensor(numbers, 1), list = tensor(indices, LINES);
    counts.precision = list.precision = MFA_PRECISION_INT32;
    counts.shape[1] = list.shape[1] = 1;
    counts.shape[2] = list.shape[2] = LINES;
    counts.stride[1] = list.stride[1] = 0;
    counts.stride[2] = 1;
    list.stride[2] = LINES;
    mfa_blocks_t blocks = MFA_BLOCKS_INIT;
    blocks.block_rows = blocks.block_keys = BLOCK;
    blocks.kv_num_blocks = &counts;
    blocks.kv_indices = &list;
    call_t call;
    describe(&waited, &call);
    call.forward.blocks = &blocks;
    CHECK(mfa_attention_forward_desc(context, &call.forward) == MFA_SUCCESS);
    CHECK(mfa_attention_backward_desc(context, &call.backward) == MFA_SUCCESS);
    describe(&b, &call);
    call.forward.blocks = &blocks;
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
    encode_both(&call, encoder);
    [encoder endEncoding];
    run(commands);
    CHECK(same(b.out, waited.out) && same(b.logsumexp, waited.logsumexp) && same(b.dquery, waited.dquery));
    const float *out = mfa_buffer_contents(b.out);
    CHECK(out[0] == 0 && out[BLOCK * HEADS * HEAD_DIM] != 0);
    mfa_destroy_buffer(numbers);
    mfa_destroy_buffer(indices);
    close_buffers(&b);
    close_buffers(&waited);
}

/* Handles may go as soon as the call is encoded: the command buffer keeps the memory. */
static void test_destroyed_before_it_runs(const buffers_t *wanted) {
    id<MTLBuffer> result = [device newBufferWithLength:BYTES options:MTLResourceStorageModeShared];
    buffers_t b = open_buffers();
    mfa_destroy_buffer(b.out);
    CHECK(mfa_buffer_from_mtl_buffer(context, result, &b.out) == MFA_SUCCESS);
    call_t call;
    describe(&b, &call);
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    CHECK(mfa_attention_forward_encode(context, &call.forward, commands) == MFA_SUCCESS);
    close_buffers(&b);
    run(commands);
    CHECK(memcmp([result contents], mfa_buffer_contents(wanted->out), BYTES) == 0);
    [result release];
}

/* What codes stand for may be written by an earlier call in the same command buffer. */
static void test_scales_that_are_written_later(void) {
    buffers_t b = open_buffers();
    call_t call;
    describe(&b, &call);
    int8_t *codes = mfa_buffer_contents(b.value);
    for (int i = 0; i < ELEMENTS; ++i)
        codes[i] = (int8_t)(7 * i);
    call.value.precision = MFA_PRECISION_INT8;
    mfa_buffer_t scales = zeroed(sizeof(float)), out = zeroed(BYTES);
    mfa_tensor_t scale = MFA_TENSOR_INIT;
    for (int axis = 0; axis < 4; ++axis)
        scale.shape[axis] = 1;
    scale.buffer = scales;
    mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
    quantization.scales = &scale;
    call.forward.value_quantization = &quantization;
    CHECK(mfa_attention_forward_desc(context, &call.forward) == MFA_ERROR_INVALID_ARGS);
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    CHECK(mfa_attention_forward_encode(context, &call.forward, commands) == MFA_SUCCESS);
    *(float *)mfa_buffer_contents(scales) = 0.5f;
    run(commands);
    call.out.buffer = out;
    CHECK(mfa_attention_forward_desc(context, &call.forward) == MFA_SUCCESS);
    CHECK(same(b.out, out));
    mfa_destroy_buffer(scales);
    mfa_destroy_buffer(out);
    close_buffers(&b);
}

static void test_shared_buffer(void) {
    id<MTLBuffer> shared = [device newBufferWithLength:100 options:MTLResourceStorageModeShared];
    mfa_buffer_t buffer = NULL;
    CHECK(mfa_buffer_from_mtl_buffer(context, shared, &buffer) == MFA_SUCCESS);
    CHECK(mfa_buffer_contents(buffer) == [shared contents] && mfa_buffer_size(buffer) == 100);
    CHECK(mfa_buffer_is_zero_copy(buffer));
    mfa_destroy_buffer(buffer);
    [shared release];
}

static void test_what_is_no_buffer(void) {
    mfa_buffer_t buffer = NULL;
    CHECK_FAILS(mfa_buffer_from_mtl_buffer(context, queue, &buffer), MFA_ERROR_INVALID_ARGS, "not an id<MTLBuffer>");
    CHECK(buffer == NULL);
}

/* Memory that the CPU cannot reach holds what one call gives to the next. */
static void test_private_buffer(const buffers_t *wanted) {
    id<MTLBuffer> hidden = [device newBufferWithLength:2 * BYTES options:MTLResourceStorageModePrivate];
    buffers_t b = open_buffers();
    mfa_destroy_buffer(b.out);
    CHECK(mfa_buffer_from_mtl_buffer(context, hidden, &b.out) == MFA_SUCCESS);
    CHECK(mfa_buffer_contents(b.out) == NULL && mfa_buffer_is_zero_copy(b.out));
    call_t call;
    describe(&b, &call);
    call.out.byte_offset = BYTES;
    CHECK(mfa_attention_forward_desc(context, &call.forward) == MFA_SUCCESS);
    CHECK(mfa_attention_backward_desc(context, &call.backward) == MFA_SUCCESS);
    CHECK(same(b.logsumexp, wanted->logsumexp) && same(b.dquery, wanted->dquery));
    close_buffers(&b);
    [hidden release];
}

static void test_refused_targets(void) {
    buffers_t b = open_buffers();
    call_t call;
    describe(&b, &call);
    const mfa_status_t wrong = MFA_ERROR_INVALID_ARGS;
    CHECK_FAILS(mfa_attention_forward_encode(context, &call.forward, NULL), wrong, "target is NULL");
    CHECK_FAILS(mfa_attention_forward_encode(context, &call.forward, queue), wrong, "target is neither");
    CHECK_FAILS(mfa_attention_forward_encode(context, &call.forward, [queue commandBufferWithUnretainedReferences]),
                wrong, "does not retain");
    id<MTLCommandBuffer> committed = [queue commandBuffer];
    run(committed);
    CHECK_FAILS(mfa_attention_forward_encode(context, &call.forward, committed), wrong, "already committed");
    close_buffers(&b);
}

/* Memory that may only be read cannot be wrapped: a call that is waited for copies it, an encoded one does not. */
static void test_memory_that_needs_a_copy(const buffers_t *wanted) {
    void *pages = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    buffers_t b = open_buffers();
    memcpy(pages, mfa_buffer_contents(b.query), BYTES);
    mprotect(pages, 65536, PROT_READ);
    mfa_destroy_buffer(b.query);
    CHECK(mfa_buffer_from_ptr(context, pages, BYTES, &b.query) == MFA_SUCCESS);
    CHECK(!mfa_buffer_is_zero_copy(b.query));
    call_t call;
    describe(&b, &call);
    CHECK(mfa_attention_forward_desc(context, &call.forward) == MFA_SUCCESS);
    CHECK(same(b.out, wanted->out));
    CHECK_FAILS(mfa_attention_forward_encode(context, &call.forward, [queue commandBuffer]), MFA_ERROR_UNSUPPORTED,
                "query lies in memory that Metal cannot wrap");
    call.query.buffer = NULL;
    call.query.data = pages;
    CHECK_FAILS(mfa_attention_forward_encode(context, &call.forward, [queue commandBuffer]), MFA_ERROR_UNSUPPORTED,
                "query is given as data");
    close_buffers(&b);
    munmap(pages, 65536);
}

static void test_other_backend(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    mfa_context_t cpu = NULL;
    CHECK(mfa_create_context_with_options(&options, &cpu) == MFA_SUCCESS);
    mfa_buffer_t buffer = NULL;
    CHECK_FAILS(mfa_buffer_from_mtl_buffer(cpu, queue, &buffer), MFA_ERROR_UNSUPPORTED, "needs a context of the Metal");
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    CHECK_FAILS(mfa_attention_forward_encode(cpu, &desc, queue), MFA_ERROR_UNSUPPORTED, "has no command buffers");
    mfa_destroy_context(cpu);
}

int main(void) {
    @autoreleasepool {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_METAL;
        CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
        device = MTLCreateSystemDefaultDevice();
        queue = [device newCommandQueue];
        buffers_t wanted = expected();
        test_command_buffer(&wanted);
        test_encoder(&wanted, MTLDispatchTypeSerial);
        test_encoder(&wanted, MTLDispatchTypeConcurrent);
        test_gradient_with_nothing_to_do();
        test_blocks();
        test_destroyed_before_it_runs(&wanted);
        test_scales_that_are_written_later();
        test_shared_buffer();
        test_what_is_no_buffer();
        test_private_buffer(&wanted);
        test_refused_targets();
        test_memory_that_needs_a_copy(&wanted);
        test_other_backend();
        close_buffers(&wanted);
        mfa_destroy_context(context);
        [queue release];
        [device release];
    }
    return check_report();
}

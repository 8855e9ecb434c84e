/*
 * Attention inside a Metal command buffer of the program's own, over Metal buffers of its own.
 *
 * Two layers of causal attention, of which the second attends within what the first gave: they are encoded one after
 * the other, and the GPU runs both without the CPU in between. Compares the result with the formula written out, and
 * fails if they differ.
 *
 * Built without ARC. With it, handles are passed as (__bridge void *)buffer.
 */
#import <Metal/Metal.h>
#include <math.h>
#include <mfa.h>
#include <stdio.h>

enum { SEQUENCE = 24, HEADS = 2, HEAD_DIM = 16, ELEMENTS = SEQUENCE * HEADS * HEAD_DIM, BYTES = ELEMENTS * 4 };

/* Element `column` of row `row` in a packed [sequence, heads, head_dim] operand. */
static size_t at(int row, int head, int column) { return (size_t)((row * HEADS + head) * HEAD_DIM + column); }

/* ------------------------------------------------------------------ on the CPU */

static void expected_row(const float *x, int row, int head, float *out) {
    double weights[SEQUENCE], total = 0;
    for (int j = 0; j <= row; ++j) {
        double dot = 0;
        for (int d = 0; d < HEAD_DIM; ++d)
            dot += (double)x[at(row, head, d)] * x[at(j, head, d)];
        total += weights[j] = exp(dot / sqrt(HEAD_DIM));
    }
    for (int d = 0; d < HEAD_DIM; ++d) {
        double sum = 0;
        for (int j = 0; j <= row; ++j)
            sum += weights[j] / total * x[at(j, head, d)];
        out[at(row, head, d)] = (float)sum;
    }
}

static void expected_layer(const float *x, float *out) {
    for (int row = 0; row < SEQUENCE; ++row)
        for (int head = 0; head < HEADS; ++head)
            expected_row(x, row, head, out);
}

static float largest_difference(const float *input, const float *result) {
    float first[ELEMENTS], second[ELEMENTS], largest = 0;
    expected_layer(input, first);
    expected_layer(first, second);
    for (int i = 0; i < ELEMENTS; ++i)
        largest = fmaxf(largest, fabsf(result[i] - second[i]));
    return largest;
}

/* ------------------------------------------------------------------ on the GPU */

static mfa_tensor_t tensor(mfa_buffer_t buffer) {
    return (mfa_tensor_t){.struct_size = sizeof(mfa_tensor_t),
                          .precision = MFA_PRECISION_FP32,
                          .buffer = buffer,
                          .shape = {1, HEADS, SEQUENCE, HEAD_DIM},
                          .stride = {ELEMENTS, HEAD_DIM, HEADS * HEAD_DIM, 1}};
}

static mfa_status_t encode_layer(mfa_context_t context, mfa_buffer_t from, mfa_buffer_t to,
                                 id<MTLCommandBuffer> commands) {
    const mfa_tensor_t x = tensor(from), out = tensor(to);
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = desc.key = desc.value = &x;
    desc.out = &out;
    desc.flags = MFA_ATTENTION_CAUSAL;
    desc.alignment = MFA_ALIGN_TOP_LEFT;
    return mfa_attention_forward_encode(context, &desc, commands);
}

/* Fills `commands`, which the caller commits. The handles go; what they wrap stays for as long as the commands need
   it. */
static mfa_status_t encode_layers(mfa_context_t context, id<MTLBuffer> const memory[3], id<MTLCommandBuffer> commands) {
    mfa_buffer_t buffers[3] = {NULL, NULL, NULL};
    mfa_status_t status = MFA_SUCCESS;
    for (int i = 0; i < 3 && status == MFA_SUCCESS; ++i)
        status = mfa_buffer_from_mtl_buffer(context, memory[i], &buffers[i]);
    for (int layer = 0; layer < 2 && status == MFA_SUCCESS; ++layer)
        status = encode_layer(context, buffers[layer], buffers[layer + 1], commands);
    for (int i = 0; i < 3; ++i)
        mfa_destroy_buffer(buffers[i]);
    return status;
}

static int run(mfa_context_t context, id<MTLBuffer> const memory[3], id<MTLCommandQueue> queue) {
    float *input = [memory[0] contents];
    for (int i = 0; i < ELEMENTS; ++i)
        input[i] = sinf(0.7f * (float)i);
    id<MTLCommandBuffer> commands = [queue commandBuffer];
    if (encode_layers(context, memory, commands) != MFA_SUCCESS) {
        fprintf(stderr, "failed: %s\n", mfa_last_error_message(context));
        return 1;
    }
    [commands commit];
    [commands waitUntilCompleted];
    if ([commands status] != MTLCommandBufferStatusCompleted) {
        fprintf(stderr, "failed: %s\n", [[[commands error] localizedDescription] UTF8String]);
        return 1;
    }
    const float difference = largest_difference(input, [memory[2] contents]);
    printf("largest difference from the formula: %.1e\n", difference);
    return !(difference < 1e-6f);
}

int main(void) {
    @autoreleasepool {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.backend = MFA_BACKEND_METAL;
        mfa_context_t context = NULL;
        if (mfa_create_context_with_options(&options, &context) != MFA_SUCCESS) {
            fprintf(stderr, "failed: %s\n", mfa_last_error_message(NULL));
            return 1;
        }
        /* The default device is the context's too. What no CPU reads, as the first layer's result here, may be
           private. */
        id<MTLDevice> device = MTLCreateSystemDefaultDevice();
        id<MTLCommandQueue> queue = [device newCommandQueue];
        id<MTLBuffer> const memory[3] = {[device newBufferWithLength:BYTES options:MTLResourceStorageModeShared],
                                         [device newBufferWithLength:BYTES options:MTLResourceStorageModePrivate],
                                         [device newBufferWithLength:BYTES options:MTLResourceStorageModeShared]};
        const int failed = run(context, memory, queue);
        mfa_destroy_context(context);
        for (int i = 0; i < 3; ++i)
            [memory[i] release];
        [queue release];
        [device release];
        return failed;
    }
}

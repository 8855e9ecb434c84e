/*
 * What the Metal backend refuses: does what the named case is about, and prints the status and the message that it got.
 *
 * Usage: refusals CASE
 */
#import <Metal/Metal.h>
#include <objc/runtime.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mfa.h"

enum { ROWS = 40, WIDTH = 8, MANY = 1 << 20, LIMIT = 65536 };

static float input[MANY], output[MANY];

static mfa_status_t open_context(int32_t device, mfa_context_t *context) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    options.device = device;
    return mfa_create_context_with_options(&options, context);
}

/* For cases that are about what comes after it. */
static mfa_context_t opened(void) {
    mfa_context_t context = NULL;
    if (open_context(0, &context) != MFA_SUCCESS)
        exit(2);
    return context;
}

static mfa_tensor_t tensor(void *data, int64_t rows, int64_t width) {
    return (mfa_tensor_t){.struct_size = sizeof(mfa_tensor_t),
                          .precision = MFA_PRECISION_FP32,
                          .data = data,
                          .shape = {1, 1, rows, width},
                          .stride = {0, 0, width, 1}};
}

/* One row, again and again. */
static mfa_tensor_t repeated(int64_t rows, int64_t width) {
    mfa_tensor_t t = tensor(input, rows, width);
    t.stride[2] = 0;
    return t;
}

static mfa_status_t attend(mfa_context_t context, mfa_tensor_t query, mfa_tensor_t key, id target) {
    mfa_tensor_t out = tensor(output, query.shape[2], key.shape[3]);
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &query;
    desc.key = desc.value = &key;
    desc.out = &out;
    return target != nil ? mfa_attention_forward_encode(context, &desc, target)
                         : mfa_attention_forward_desc(context, &desc);
}

static mfa_status_t plain_call(void) { return attend(opened(), repeated(ROWS, WIDTH), repeated(ROWS, WIDTH), nil); }

/* ------------------------------------------------------------------ contexts and processes */

static mfa_status_t default_device(void) {
    mfa_context_t none = NULL;
    return open_context(0, &none);
}

static mfa_status_t eighth_device(void) {
    mfa_context_t none = NULL;
    return open_context(7, &none);
}

/* Goes on in a child only, after Metal was used. */
static mfa_context_t opened_and_forked(void) {
    mfa_context_t context = opened();
    if (fork() != 0) {
        wait(NULL);
        exit(0);
    }
    return context;
}

static mfa_status_t forked_context(void) {
    opened_and_forked();
    return default_device();
}

static mfa_status_t forked_call(void) {
    return attend(opened_and_forked(), repeated(ROWS, WIDTH), repeated(ROWS, WIDTH), nil);
}

/* ------------------------------------------------------------------ sizes */

static mfa_status_t large_head_dim(void) {
    mfa_tensor_t wide = repeated(1, MANY + 1);
    wide.stride[3] = 0;
    mfa_tensor_t narrow = repeated(1, 1), out = tensor(output, 1, 1);
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = desc.key = &wide;
    desc.value = &narrow;
    desc.out = &out;
    return mfa_attention_forward_desc(opened(), &desc);
}

static mfa_status_t large_operand(void) {
    return attend(opened(), tensor(input, LIMIT, WIDTH), repeated(1, WIDTH), nil);
}

static mfa_status_t large_buffer(void) {
    mfa_buffer_t none = NULL;
    return mfa_create_buffer(opened(), LIMIT + 1, &none);
}

/* Its keys are split, and what came of each split is kept. */
static mfa_status_t large_workspace(void) {
    return attend(opened(), repeated(1, WIDTH * WIDTH), repeated(MANY, WIDTH * WIDTH), nil);
}

/* ------------------------------------------------------------------ encoded calls */

static id<MTLCommandBuffer> commands(void) { return [[MTLCreateSystemDefaultDevice() newCommandQueue] commandBuffer]; }

static mfa_status_t encoded_data(void) {
    return attend(opened(), repeated(ROWS, WIDTH), repeated(ROWS, WIDTH), commands());
}

static mfa_status_t encoded_read_only_memory(void) {
    mfa_context_t context = opened();
    void *memory = mmap(NULL, LIMIT, PROT_READ, MAP_PRIVATE | MAP_ANON, -1, 0);
    mfa_tensor_t query = repeated(ROWS, WIDTH);
    query.data = NULL;
    if (mfa_buffer_from_ptr(context, memory, LIMIT, &query.buffer) != MFA_SUCCESS)
        exit(2);
    return attend(context, query, query, commands());
}

/* ------------------------------------------------------------------ a device with other limits than the emulated one
   has */

static NSUInteger sixteen(id self, SEL selector) {
    (void)self, (void)selector;
    return 16;
}

static void replace(const char *class, SEL selector) {
    Class owner = objc_getClass(class);
    class_replaceMethod(owner, selector, (IMP)(void (*)(void))sixteen,
                        method_getTypeEncoding(class_getInstanceMethod(owner, selector)));
}

static mfa_status_t narrow_simdgroups(void) {
    replace("EMUPipeline", @selector(threadExecutionWidth));
    return plain_call();
}

static mfa_status_t little_threadgroup_memory(void) {
    replace("EMUDevice", @selector(maxThreadgroupMemoryLength));
    return plain_call();
}

/* ------------------------------------------------------------------ by name */

static const struct {
    const char *name;
    mfa_status_t (*run)(void);
} cases[] = {
    {"default device", default_device},
    {"eighth device", eighth_device},
    {"forked context", forked_context},
    {"forked call", forked_call},
    {"large head_dim", large_head_dim},
    {"large operand", large_operand},
    {"large buffer", large_buffer},
    {"large workspace", large_workspace},
    {"encoded data", encoded_data},
    {"encoded read-only memory", encoded_read_only_memory},
    {"narrow simdgroups", narrow_simdgroups},
    {"little threadgroup memory", little_threadgroup_memory},
    {"plain call", plain_call},
};

int main(int argc, char **argv) {
    @autoreleasepool {
        for (size_t i = 0; argc == 2 && i < sizeof cases / sizeof *cases; ++i)
            if (strcmp(cases[i].name, argv[1]) == 0) {
                const mfa_status_t status = cases[i].run();
                printf("%d %s\n", status, status == MFA_SUCCESS ? "" : mfa_last_error_message(NULL));
                return 0;
            }
    }
    fprintf(stderr, "usage: refusals CASE\n");
    return 2;
}

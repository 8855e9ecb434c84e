/* A context and calls of it that several threads share, for tests of what calls do to threads. Every output has to be
   1. */
#ifndef CALLS_H
#define CALLS_H

#include <stdlib.h>

#include "check.h"
#include "mfa.h"

enum { CALL_HEADS = 8, CALL_ROWS = 100, CALL_DIM = 16, CALL_FLOATS = CALL_HEADS * CALL_ROWS * CALL_DIM };

typedef struct {
    mfa_context_t context;
    float *ones, *out;
} calls_t;

static inline calls_t open_calls(int32_t threads) {
    calls_t calls = {NULL, malloc(CALL_FLOATS * sizeof(float)), malloc(CALL_FLOATS * sizeof(float))};
    for (int i = 0; i < CALL_FLOATS; ++i)
        calls.ones[i] = 1;
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.num_threads = threads;
    CHECK(mfa_create_context_with_options(&options, &calls.context) == MFA_SUCCESS);
    return calls;
}

static inline void close_calls(calls_t *calls) {
    mfa_destroy_context(calls->context);
    free(calls->ones);
    free(calls->out);
}

static inline mfa_tensor_t call_tensor(float *data) {
    mfa_tensor_t tensor = MFA_TENSOR_INIT;
    tensor.data = data;
    const int64_t shape[4] = {1, CALL_HEADS, CALL_ROWS, CALL_DIM};
    const int64_t stride[4] = {CALL_FLOATS, CALL_ROWS * CALL_DIM, CALL_DIM, 1};
    memcpy(tensor.shape, shape, sizeof shape);
    memcpy(tensor.stride, stride, sizeof stride);
    return tensor;
}

/* Takes no memory that a thread cancelled in it would lose. */
static inline mfa_status_t call_once(const calls_t *calls) {
    const mfa_tensor_t ones = call_tensor(calls->ones), out = call_tensor(calls->out);
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = desc.key = desc.value = &ones;
    desc.out = &out;
    return mfa_attention_forward_desc(calls->context, &desc);
}

static inline bool call_is_right(const calls_t *calls) {
    memset(calls->out, 0, CALL_FLOATS * sizeof(float));
    bool right = call_once(calls) == MFA_SUCCESS;
    for (int i = 0; i < CALL_FLOATS; ++i)
        right &= calls->out[i] > 0.999f && calls->out[i] < 1.001f;
    return right;
}

#endif

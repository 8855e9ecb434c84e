/*
 * Calls as cgo's rules allow them: memory of Go's that is handed to C holds no Go pointer, so that addresses are
 * arguments, and what else there is to say of a call is a struct of numbers. Descriptors are made here, on C's stack,
 * and C keeps nothing when it returns.
 */
#ifndef MFAGO_CALLS_H
#define MFAGO_CALLS_H

#include <mfa.h>

/* Of a type without pointers, since cgo would look for some behind a void *. */
typedef unsigned char mfago_bytes;

typedef struct mfago_tensor {
    int32_t precision;
    int32_t given; /* 0: none */
    int64_t shape[4];
} mfago_tensor;

typedef struct mfago_attention {
    uint32_t flags;
    int32_t alignment;
    float scale;
    int64_t window_left;
    int64_t window_right;
    int64_t block_rows;
    int64_t block_keys;
    mfago_tensor query, key, value, out, logsumexp;
    mfago_tensor block_mask;
    mfago_tensor key_scales, value_scales;
} mfago_attention;

typedef struct mfago_gradients {
    mfago_tensor dout, dquery, dkey, dvalue;
} mfago_gradients;

mfa_status_t mfago_create(int32_t backend, int32_t threads, mfa_context_t *context);

mfa_status_t mfago_forward(mfa_context_t context, const mfago_attention *attention, mfago_bytes *query,
                           mfago_bytes *key, mfago_bytes *value, mfago_bytes *out, mfago_bytes *logsumexp,
                           mfago_bytes *block_mask, mfago_bytes *key_scales, mfago_bytes *value_scales);

mfa_status_t mfago_backward(mfa_context_t context, const mfago_attention *attention, mfago_bytes *query,
                            mfago_bytes *key, mfago_bytes *value, mfago_bytes *out, mfago_bytes *logsumexp,
                            mfago_bytes *block_mask, mfago_bytes *key_scales, mfago_bytes *value_scales,
                            const mfago_gradients *gradients, mfago_bytes *dout, mfago_bytes *dquery, mfago_bytes *dkey,
                            mfago_bytes *dvalue);

mfa_status_t mfago_quantize(mfa_context_t context, const mfago_tensor *input, mfago_bytes *elements,
                            const mfago_tensor *codes, mfago_bytes *to, const mfago_tensor *scales,
                            mfago_bytes *scales_to);

#endif

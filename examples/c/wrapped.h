/*
 * What a C program puts around mfa.h: operands over its own arrays, whose sizes the library then checks, and a look at
 * the library's version.
 */
#ifndef WRAPPED_H
#define WRAPPED_H

#include <mfa.h>
#include <stddef.h>
#include <stdio.h>

/* An array of the program's, and the tensor that it is, packed. Wrapped in a buffer, as here, the library knows where
   it ends, and refuses a shape that goes beyond; where `data` is set instead, that is the program's to see to. */
typedef struct {
    mfa_buffer_t buffer;
    mfa_tensor_t tensor;
} operand_t;

/* Nothing is copied: `memory` has to stay until the operand is released. */
static inline mfa_status_t operand_wrap(mfa_context_t context, void *memory, size_t bytes, mfa_precision_t precision,
                                        const int64_t shape[4], operand_t *operand) {
    const mfa_tensor_t tensor = MFA_TENSOR_INIT;
    mfa_status_t status = mfa_buffer_from_ptr(context, memory, bytes, &operand->buffer);
    operand->tensor = tensor;
    operand->tensor.buffer = operand->buffer;
    operand->tensor.precision = precision;
    int64_t stride = 1;
    for (int axis = 3; axis >= 0; stride *= shape[axis--]) {
        operand->tensor.shape[axis] = shape[axis];
        operand->tensor.stride[axis] = stride;
    }
    return status;
}

/* Twice does no harm: what is released is NULL, which the library refuses to use. */
static inline void operand_release(operand_t *operand) {
    mfa_destroy_buffer(operand->buffer);
    operand->buffer = operand->tensor.buffer = NULL;
}

/* Whether the library found at run time is at least as new as the header; what it says otherwise goes to stderr. */
static inline bool library_is_new_enough(void) {
    int major, minor, patch;
    mfa_get_version(&major, &minor, &patch);
    const int found = (major * 1000 + minor) * 1000 + patch;
    const int wanted = (MFA_VERSION_MAJOR * 1000 + MFA_VERSION_MINOR) * 1000 + MFA_VERSION_PATCH;
    if (found < wanted)
        fprintf(stderr, "libmfa is version %d.%d.%d, older than the mfa.h of %d.%d.%d that this was compiled with\n",
                major, minor, patch, MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH);
    return found >= wanted;
}

#endif

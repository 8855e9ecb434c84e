#include "core/buffer.h"

#include <stdlib.h>

#include "core/context.h"
#include "core/entry.h"

struct mfa_buffer {
    mfa_context_t context;
    size_t size;
    mfai_memory_t memory;
    bool has_params;
    mfa_quantization_params_t params; /* of the codes in it */
};

/* Takes over `memory`, which a failure closes. */
static mfa_status_t hand_out(mfa_context_t context, size_t size, mfai_memory_t *memory, mfa_buffer_t *handle) {
    mfa_buffer_t buffer = malloc(sizeof *buffer);
    if (buffer == NULL) {
        context->backend->memory_close(context->device, memory);
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a buffer");
    }
    mfai_context_retain(context);
    *buffer = (struct mfa_buffer){.context = context, .size = size, .memory = *memory};
    *handle = buffer;
    return MFA_SUCCESS;
}

static mfa_status_t open_buffer(mfa_context_t context, void *data, size_t size, mfa_buffer_t *handle) {
    mfai_memory_t memory = {0};
    MFAI_TRY(context->backend->memory_open(context->device, data, size, &memory));
    return hand_out(context, size, &memory, handle);
}

mfa_status_t mfa_create_buffer(mfa_context_t context, size_t size_bytes, mfa_buffer_t *buffer) {
    MFAI_ENTRY;
    MFAI_REQUIRE(context != NULL, "context is NULL");
    MFAI_REQUIRE(buffer != NULL, "buffer is NULL, expected an address to write the handle to");
    MFAI_REQUIRE(size_bytes <= PTRDIFF_MAX, "size_bytes is %zu, expected at most %td", size_bytes, PTRDIFF_MAX);
    return open_buffer(context, NULL, size_bytes, buffer);
}

mfa_status_t mfa_buffer_from_ptr(mfa_context_t context, void *data, size_t size_bytes, mfa_buffer_t *buffer) {
    MFAI_ENTRY;
    static char nothing;
    MFAI_REQUIRE(context != NULL, "context is NULL");
    MFAI_REQUIRE(buffer != NULL, "buffer is NULL, expected an address to write the handle to");
    MFAI_REQUIRE(size_bytes <= PTRDIFF_MAX, "size_bytes is %zu, expected at most %td", size_bytes, PTRDIFF_MAX);
    MFAI_REQUIRE(data != NULL || size_bytes == 0, "data is NULL, but size_bytes is %zu", size_bytes);
    return open_buffer(context, data != NULL ? data : &nothing, size_bytes, buffer);
}

mfa_status_t mfa_buffer_from_mtl_buffer(mfa_context_t context, void *mtl_buffer, mfa_buffer_t *buffer) {
    MFAI_ENTRY;
    MFAI_REQUIRE(context != NULL, "context is NULL");
    MFAI_REQUIRE(mtl_buffer != NULL, "mtl_buffer is NULL");
    MFAI_REQUIRE(buffer != NULL, "buffer is NULL, expected an address to write the handle to");
    if (context->backend->memory_adopt == NULL)
        return mfai_fail(MFA_ERROR_UNSUPPORTED, "mtl_buffer needs a context of the Metal backend, this one is \"%s\"",
                         context->backend->name);
    mfai_memory_t memory = {0};
    size_t size = 0;
    MFAI_TRY(context->backend->memory_adopt(context->device, mtl_buffer, &size, &memory));
    return hand_out(context, size, &memory, buffer);
}

void *mfa_buffer_contents(mfa_buffer_t buffer) { return buffer != NULL ? buffer->memory.contents : NULL; }

size_t mfa_buffer_size(mfa_buffer_t buffer) { return buffer != NULL ? buffer->size : 0; }

bool mfa_buffer_is_zero_copy(mfa_buffer_t buffer) { return buffer != NULL && buffer->memory.zero_copy; }

void mfa_destroy_buffer(mfa_buffer_t buffer) {
    MFAI_ENTRY;
    if (buffer == NULL)
        return;
    buffer->context->backend->memory_close(buffer->context->device, &buffer->memory);
    mfai_context_release(buffer->context);
    free(buffer);
}

mfa_context_t mfai_buffer_context(mfa_buffer_t buffer) { return buffer->context; }

const mfai_memory_t *mfai_buffer_memory(mfa_buffer_t buffer) { return &buffer->memory; }

const mfa_quantization_params_t *mfai_buffer_params(mfa_buffer_t buffer) {
    return buffer->has_params ? &buffer->params : NULL;
}

void mfai_buffer_set_params(mfa_buffer_t buffer, const mfa_quantization_params_t *params) {
    buffer->has_params = true;
    buffer->params = *params;
}

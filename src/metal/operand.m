#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/operand.h"

#include <inttypes.h>
#include <string.h>

#include "core/buffer.h"
#import "metal/memory.h"
#import "metal/ownership.h"

/* ------------------------------------------------------------------ copies */

/* The sizes and strides of a copy: a dimension along which the operand repeats is kept once. Returns its elements. */
static int64_t pack(const mfai_view_t *view, int64_t size[4], int64_t stride[4]) {
    int64_t count = 1;
    for (int axis = 3; axis >= 0; --axis) {
        size[axis] = view->stride[axis] == 0 ? 1 : view->shape[axis];
        stride[axis] = view->stride[axis] == 0 ? 0 : count;
        count *= size[axis];
    }
    return count;
}

typedef struct {
    char *data;
    const int64_t *stride;
} place_t;

static void copy_row(place_t to, place_t from, int64_t count, size_t element) {
    if (count == 1 || (to.stride[3] == 1 && from.stride[3] == 1)) {
        memcpy(to.data, from.data, (size_t)count * element);
        return;
    }
    const int64_t to_step = to.stride[3] * (int64_t)element, from_step = from.stride[3] * (int64_t)element;
    for (int64_t i = 0; i < count; ++i)
        memcpy(to.data + i * to_step, from.data + i * from_step, element);
}

static int64_t position(const int64_t stride[4], int64_t a, int64_t b, int64_t c) {
    return a * stride[0] + b * stride[1] + c * stride[2];
}

static void copy_elements(place_t to, place_t from, const int64_t size[4], size_t element) {
    for (int64_t a = 0; a < size[0]; ++a)
        for (int64_t b = 0; b < size[1]; ++b)
            for (int64_t c = 0; c < size[2]; ++c) {
                const place_t to_row = {to.data + position(to.stride, a, b, c) * (int64_t)element, to.stride};
                const place_t from_row = {from.data + position(from.stride, a, b, c) * (int64_t)element, from.stride};
                copy_row(to_row, from_row, size[3], element);
            }
}

static mfa_status_t open_copy(id<MTLDevice> gpu, const char *name, mfai_metal_operand_t *operand) {
    const mfai_view_t view = mfai_view_as_bytes(&operand->origin);
    const size_t element = (size_t)mfai_view_element(&view);
    int64_t size[4], stride[4];
    const uint64_t bytes = (uint64_t)pack(&view, size, stride) * element, most = [gpu maxBufferLength];
    if (bytes > most)
        return mfai_fail(MFA_ERROR_UNSUPPORTED,
                         "%s has %" PRIu64 " bytes, and a buffer of the Metal device at most %" PRIu64, name, bytes,
                         most);
    operand->buffer = [gpu newBufferWithLength:bytes options:MTLResourceStorageModeShared];
    if (operand->buffer == nil)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a copy of %s, %" PRIu64 " bytes", name, bytes);
    operand->copied = true;
    if (operand->read)
        copy_elements((place_t){[operand->buffer contents], stride}, (place_t){view.data, view.stride}, size, element);
    const int64_t in_a_byte = mfai_formats[operand->origin.format].bits == 4 ? 2 : 1;
    for (int axis = 0; axis < 4; ++axis)
        operand->stride[axis] = axis < 3 ? in_a_byte * stride[axis] : stride[axis];
    return MFA_SUCCESS;
}

void mfai_metal_operand_finish(const mfai_metal_operand_t *operand) {
    if (!operand->copied || !operand->written)
        return;
    const mfai_view_t view = mfai_view_as_bytes(&operand->origin);
    int64_t size[4], stride[4];
    pack(&view, size, stride);
    copy_elements((place_t){view.data, view.stride}, (place_t){[operand->buffer contents], stride}, size,
                  (size_t)mfai_view_element(&view));
}

/* ------------------------------------------------------------------ the memory itself */

static void use_buffer(mfai_metal_operand_t *operand) {
    const mfai_memory_t *memory = mfai_buffer_memory(operand->origin.buffer);
    size_t offset = 0;
    operand->buffer = MFAI_RETAIN(mfai_metal_memory_buffer(memory, &offset));
    operand->offset = offset + (size_t)(operand->origin.data - memory->base);
}

static void wrap_memory(id<MTLDevice> gpu, mfai_metal_operand_t *operand) {
    int64_t lowest = 0, end = 0;
    size_t offset = 0;
    if (!mfai_view_extent(&operand->origin, &lowest, &end))
        return;
    operand->buffer = mfai_metal_memory_wrap(gpu, operand->origin.data + lowest, (size_t)(end - lowest), &offset);
    operand->offset = offset + (size_t)-lowest;
}

/* Two Metal buffers over one address are strangers to Metal, which orders calls by the buffers that they share. */
static mfa_status_t refuse(const char *name, const mfai_view_t *view) {
    if (view->buffer == NULL)
        return mfai_fail(MFA_ERROR_UNSUPPORTED, "%s is given as data, and an encoded call takes memory in buffers only",
                         name);
    return mfai_fail(MFA_ERROR_UNSUPPORTED,
                     "%s lies in memory that Metal cannot wrap, and an encoded call copies nothing: use a buffer of "
                     "mfa_create_buffer",
                     name);
}

mfa_status_t mfai_metal_operand_open(mfai_metal_device_t *device, const char *name, const mfai_view_t *view,
                                     mfai_metal_access_t access, bool encoded, mfai_metal_operand_t *operand) {
    *operand = (mfai_metal_operand_t){
        .origin = *view, .read = access != MFAI_METAL_WRITE, .written = access != MFAI_METAL_READ};
    memcpy(operand->stride, view->stride, sizeof operand->stride);
    if (!view->present || mfai_view_is_empty(view))
        return MFA_SUCCESS;
    if (view->buffer != NULL)
        use_buffer(operand);
    else if (!encoded)
        wrap_memory(device->gpu, operand);
    if (operand->buffer != nil)
        return MFA_SUCCESS;
    if (encoded)
        return refuse(name, view);
    operand->offset = 0;
    return open_copy(device->gpu, name, operand);
}

void mfai_metal_operand_close(mfai_metal_operand_t *operand) {
    MFAI_RELEASE(operand->buffer);
    operand->buffer = nil;
}
#endif

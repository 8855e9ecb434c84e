#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/memory.h"

#include <stdlib.h>
#include <string.h>

#import "metal/ownership.h"
#include "metal/process.h"
#include "metal/region.h"

typedef struct {
    id<MTLBuffer> buffer; /* retained; nil: calls copy */
    size_t offset;        /* of the memory's base */
} handle_t;

static mfa_status_t hand_out(id<MTLBuffer> buffer, size_t offset, mfai_memory_t *memory) {
    handle_t *handle = calloc(1, sizeof *handle);
    if (handle == NULL) {
        MFAI_RELEASE(buffer);
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a buffer");
    }
    *handle = (handle_t){buffer, offset};
    memory->handle = handle;
    memory->zero_copy = buffer != nil;
    return MFA_SUCCESS;
}

id<MTLBuffer> mfai_metal_memory_wrap(id<MTLDevice> gpu, const void *data, size_t size, size_t *offset) {
    const mfai_metal_pages_t pages = mfai_metal_pages_around(data, size);
    if (size == 0 || pages.length > [gpu maxBufferLength] || !mfai_metal_is_one_region(pages))
        return nil;
    *offset = (uintptr_t)data - pages.start;
    return [gpu newBufferWithBytesNoCopy:(void *)pages.start
                                  length:pages.length
                                 options:MTLResourceStorageModeShared
                             deallocator:nil];
}

static mfa_status_t allocate(id<MTLDevice> gpu, size_t size, mfai_memory_t *memory) {
    const size_t length = size > 0 ? size : 1; /* Metal has no empty buffers */
    const size_t most = [gpu maxBufferLength];
    if (length > most)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION,
                         "no memory for a buffer of %zu bytes: the Metal device allows %zu", size, most);
    id<MTLBuffer> buffer = [gpu newBufferWithLength:length options:MTLResourceStorageModeShared];
    if (buffer == nil)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a buffer of %zu bytes", size);
    memory->contents = [buffer contents];
    memory->base = memory->contents;
    memset(memory->contents, 0, length);
    return hand_out(buffer, 0, memory);
}

mfa_status_t mfai_metal_memory_open(void *handle, void *data, size_t size, mfai_memory_t *memory) {
    const mfai_metal_device_t *device = handle;
    MFAI_TRY(mfai_metal_check_process());
    @autoreleasepool {
        if (data == NULL)
            return allocate(device->gpu, size, memory);
        memory->contents = data;
        memory->base = data;
        size_t offset = 0;
        id<MTLBuffer> buffer = mfai_metal_memory_wrap(device->gpu, data, size, &offset);
        return hand_out(buffer, offset, memory);
    }
}

mfa_status_t mfai_metal_memory_adopt(void *handle, void *object, size_t *size, mfai_memory_t *memory) {
    const mfai_metal_device_t *device = handle;
    MFAI_TRY(mfai_metal_check_process());
    @autoreleasepool {
        id<NSObject> any = (__bridge id<NSObject>)object;
        MFAI_REQUIRE([any respondsToSelector:@selector(contents)], "mtl_buffer is not an id<MTLBuffer>");
        id<MTLBuffer> buffer = (__bridge id<MTLBuffer>)object;
        MFAI_REQUIRE([buffer device] == device->gpu, "mtl_buffer is of another Metal device than the context");
        memory->contents = [buffer contents];
        memory->base = memory->contents;
        if (memory->base == NULL) /* private storage */
            memory->base = (char *)(uintptr_t)([buffer gpuAddress] | MFAI_DEVICE_ADDRESS);
        *size = [buffer length];
        return hand_out(MFAI_RETAIN(buffer), 0, memory);
    }
}

void mfai_metal_memory_close(void *device, mfai_memory_t *memory) {
    (void)device;
    handle_t *handle = memory->handle;
    if (mfai_metal_is_forked())
        return;
    @autoreleasepool {
        MFAI_RELEASE(handle->buffer);
    }
    free(handle);
}

id<MTLBuffer> mfai_metal_memory_buffer(const mfai_memory_t *memory, size_t *offset) {
    const handle_t *handle = memory->handle;
    *offset = handle->offset;
    return handle->buffer;
}
#endif

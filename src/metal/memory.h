/* Buffers of the caller's and of the context's as the device sees them. */
#ifndef MFA_METAL_MEMORY_H
#define MFA_METAL_MEMORY_H

#import "metal/device.h"

mfa_status_t mfai_metal_memory_open(void *device, void *data, size_t size, mfai_memory_t *memory);
void mfai_metal_memory_close(void *device, mfai_memory_t *memory);
mfa_status_t mfai_metal_memory_adopt(void *device, void *object, size_t *size, mfai_memory_t *memory);

/* The Metal buffer of an open memory; nil: the device cannot reach it. The memory's base is `*offset` bytes into it. */
id<MTLBuffer> mfai_metal_memory_buffer(const mfai_memory_t *memory, size_t *offset);

/* A Metal buffer over the pages of the caller's memory, with `data` `*offset` bytes into it, retained; nil if Metal
   cannot wrap them. */
id<MTLBuffer> mfai_metal_memory_wrap(id<MTLDevice> gpu, const void *data, size_t size, size_t *offset);

#endif

/* Blocks registered with a command buffer. They are no objects in this runtime, so no array of Foundation's holds
   them. */
#import <Metal/MTLCommandBuffer.h>

typedef struct {
    MTLCommandBufferHandler *blocks;
    size_t count;
} emu_handlers;

void emu_handlers_add(emu_handlers *handlers, MTLCommandBufferHandler block);
void emu_handlers_call(const emu_handlers *handlers, id<MTLCommandBuffer> commandBuffer);
void emu_handlers_clear(emu_handlers *handlers);

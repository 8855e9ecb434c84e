#import "handlers.h"

#include <Block.h>
#include <stdlib.h>

#import "errors.h"

void emu_handlers_add(emu_handlers *handlers, MTLCommandBufferHandler block) {
    MTLCommandBufferHandler *blocks = realloc(handlers->blocks, (handlers->count + 1) * sizeof *blocks);
    if (!blocks)
        emu_refuse(@"no memory for a command buffer's handler");
    handlers->blocks = blocks;
    handlers->blocks[handlers->count++] = Block_copy(block);
}

void emu_handlers_call(const emu_handlers *handlers, id<MTLCommandBuffer> commandBuffer) {
    for (size_t i = 0; i < handlers->count; ++i)
        handlers->blocks[i](commandBuffer);
}

void emu_handlers_clear(emu_handlers *handlers) {
    for (size_t i = 0; i < handlers->count; ++i)
        Block_release(handlers->blocks[i]);
    free(handlers->blocks);
    *handlers = (emu_handlers){NULL, 0};
}

/* What PyTorch for macOS exports of its stream, and libdispatch of queues, over a Metal device of any kind; and buffers
   as PyTorch's tensors have them. */
#import <Metal/Metal.h>
#include <stdbool.h>

#define EXPORTED __attribute__((visibility("default")))

static id<MTLCommandQueue> queue;
static id<MTLCommandBuffer> current;
static int on_queue, encoded;

static void open_queue(void) {
    if (queue == nil) {
        id<MTLDevice> device = MTLCreateSystemDefaultDevice();
        queue = [device newCommandQueue];
        [device release];
    }
}

EXPORTED void *stand_in_buffer(size_t size) {
    open_queue();
    return [[queue device] newBufferWithLength:size options:MTLResourceStorageModeShared];
}

EXPORTED void *stand_in_contents(void *buffer) { return [(id<MTLBuffer>)buffer contents]; }

/* How many calls were encoded, each of them on the queue. */
EXPORTED int stand_in_encoded(void) { return encoded; }

EXPORTED void stand_in_finish(void) {
    @autoreleasepool {
        [current commit];
        [current waitUntilCompleted];
        [current release];
        current = nil;
    }
}

/* torch::mps::get_dispatch_queue() */
EXPORTED void *_ZN5torch3mps18get_dispatch_queueEv(void) {
    open_queue();
    return queue;
}

/* torch::mps::get_command_buffer() */
EXPORTED void *_ZN5torch3mps18get_command_bufferEv(void) {
    if (!on_queue)
        return NULL;
    ++encoded;
    @autoreleasepool {
        if (current == nil)
            current = [[queue commandBuffer] retain];
    }
    return current;
}

EXPORTED void dispatch_sync_f(void *target, void *argument, void (*function)(void *)) {
    on_queue = target == queue;
    function(argument);
    on_queue = 0;
}

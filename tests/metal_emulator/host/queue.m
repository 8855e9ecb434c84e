#import "queue.h"

#import "command_buffer.h"
#import "device.h"
#import "errors.h"
#include "calls.h"
#include "live.h"
#include "scheduler.h"

@implementation EMUQueue

- (instancetype)initWithDevice:(EMUDevice *)device limit:(NSUInteger)limit {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_QUEUE);
        _device = [device retain];
        _limit = limit;
        _order = [[NSMutableArray alloc] init];
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_QUEUE);
    [_device release];
    [_label release];
    [_order release];
    [super dealloc];
}

@synthesize label = _label;

- (id<MTLDevice>)device {
    return _device;
}

/* Metal blocks at the limit until a command buffer completes. Without one committed, that would be for ever. */
- (void)waitForRoom {
    BOOL stuck = NO;
    pthread_mutex_lock(&emu_scheduler_lock);
    while (_uncompleted >= _limit && !stuck) {
        stuck = _committed == 0 || emu_scheduler_is_this_thread();
        if (!stuck)
            pthread_cond_wait(&emu_scheduler_changed, &emu_scheduler_lock);
    }
    if (!stuck)
        ++_uncompleted;
    pthread_mutex_unlock(&emu_scheduler_lock);
    if (stuck)
        emu_refuse(@"-[MTLCommandQueue commandBuffer]: %lu command buffers exist that nobody committed; Metal would "
                   @"block for ever",
                   (unsigned long)_limit);
}

- (id<MTLCommandBuffer>)commandBufferWithReferences:(BOOL)retained options:(MTLCommandBufferErrorOption)options {
    if (emu_calls_fails(EMU_CALL_COMMAND_BUFFER))
        return nil;
    [self waitForRoom];
    return [[[EMUCommandBuffer alloc] initWithQueue:self retainedReferences:retained errorOptions:options] autorelease];
}

- (id<MTLCommandBuffer>)commandBuffer {
    return [self commandBufferWithReferences:YES options:MTLCommandBufferErrorOptionNone];
}

- (id<MTLCommandBuffer>)commandBufferWithUnretainedReferences {
    return [self commandBufferWithReferences:NO options:MTLCommandBufferErrorOptionNone];
}

- (id<MTLCommandBuffer>)commandBufferWithDescriptor:(MTLCommandBufferDescriptor *)descriptor {
    if (!descriptor)
        emu_refuse(@"-[MTLCommandQueue commandBufferWithDescriptor:]: the descriptor is nil");
    return [self commandBufferWithReferences:[descriptor retainedReferences] options:[descriptor errorOptions]];
}

- (void)enqueue:(EMUCommandBuffer *)commandBuffer {
    [_order addObject:[NSValue valueWithNonretainedObject:commandBuffer]];
}

- (void)noteCommit {
    ++_committed;
}

- (BOOL)isNext:(EMUCommandBuffer *)commandBuffer {
    return [[_order objectAtIndex:0] nonretainedObjectValue] == commandBuffer;
}

- (void)remove:(EMUCommandBuffer *)commandBuffer ran:(BOOL)ran {
    [_order removeObject:[NSValue valueWithNonretainedObject:commandBuffer]];
    --_uncompleted;
    if (ran)
        --_committed;
    pthread_cond_broadcast(&emu_scheduler_changed);
}

@end

#import "command_buffer.h"

#include <time.h>

#import "compute_encoder.h"
#import "errors.h"
#import "pass.h"
#import "queue.h"
#include "calls.h"
#include "live.h"
#include "log.h"
#include "scheduler.h"

static CFTimeInterval now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (CFTimeInterval)time.tv_sec + 1e-9 * (CFTimeInterval)time.tv_nsec;
}

@implementation MTLCommandBufferDescriptor

- (instancetype)init {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_COMMAND_BUFFER_DESCRIPTOR);
        _retainedReferences = YES;
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_COMMAND_BUFFER_DESCRIPTOR);
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    MTLCommandBufferDescriptor *copy = [[[self class] allocWithZone:zone] init];
    copy->_retainedReferences = _retainedReferences;
    copy->_errorOptions = _errorOptions;
    return copy;
}

@synthesize retainedReferences = _retainedReferences;
@synthesize errorOptions = _errorOptions;

@end

@implementation EMUCommandBuffer

- (instancetype)initWithQueue:(EMUQueue *)queue
           retainedReferences:(BOOL)retainedReferences
                 errorOptions:(MTLCommandBufferErrorOption)errorOptions {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_COMMAND_BUFFER);
        _queue = [queue retain];
        _retainedReferences = retainedReferences;
        _errorOptions = errorOptions;
        _passes = [[NSMutableArray alloc] init];
        _resources = [[NSMutableArray alloc] init];
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_COMMAND_BUFFER);
    if (_status < MTLCommandBufferStatusCommitted) {
        pthread_mutex_lock(&emu_scheduler_lock);
        [_queue remove:self ran:NO];
        pthread_mutex_unlock(&emu_scheduler_lock);
    }
    emu_handlers_clear(&_scheduledHandlers);
    emu_handlers_clear(&_completedHandlers);
    [_passes release];
    [_resources release];
    [_misuse release];
    [_error release];
    [_label release];
    [_queue release];
    [super dealloc];
}

@synthesize label = _label;
@synthesize retainedReferences = _retainedReferences;
@synthesize errorOptions = _errorOptions;

- (EMUQueue *)emulatedQueue {
    return _queue;
}

- (id<MTLCommandQueue>)commandQueue {
    return _queue;
}

- (id<MTLDevice>)device {
    return [_queue device];
}

/* ------------------------------------------------------------------ state, read under the scheduler's lock */

- (MTLCommandBufferStatus)status {
    pthread_mutex_lock(&emu_scheduler_lock);
    const MTLCommandBufferStatus status = _status;
    pthread_mutex_unlock(&emu_scheduler_lock);
    return status;
}

- (NSError *)error {
    pthread_mutex_lock(&emu_scheduler_lock);
    NSError *error = [[_error retain] autorelease];
    pthread_mutex_unlock(&emu_scheduler_lock);
    return error;
}

- (CFTimeInterval)timeAt:(const CFTimeInterval *)time {
    pthread_mutex_lock(&emu_scheduler_lock);
    const CFTimeInterval value = *time;
    pthread_mutex_unlock(&emu_scheduler_lock);
    return value;
}

- (CFTimeInterval)kernelStartTime {
    return [self timeAt:&_kernelStartTime];
}

- (CFTimeInterval)kernelEndTime {
    return [self timeAt:&_kernelEndTime];
}

- (CFTimeInterval)GPUStartTime {
    return [self timeAt:&_GPUStartTime];
}

- (CFTimeInterval)GPUEndTime {
    return [self timeAt:&_GPUEndTime];
}

- (BOOL)isCommitted {
    return [self status] >= MTLCommandBufferStatusCommitted;
}

/* ------------------------------------------------------------------ encoding */

- (void)misuse:(NSString *)text {
    if ([self isCommitted])
        emu_refuse(@"%@ (the command buffer is committed)", text);
    emu_log([[@"misuse: " stringByAppendingString:text] UTF8String]);
    if (!_misuse)
        _misuse = [text copy];
}

- (void)keep:(id)resource {
    if (_retainedReferences)
        [_resources addObject:resource];
}

- (void)encoderEnded:(EMUPass *)pass {
    _openEncoder = nil;
    [_passes addObject:pass];
}

- (id<MTLComputeCommandEncoder>)computeCommandEncoder {
    return [self computeCommandEncoderWithDispatchType:MTLDispatchTypeSerial];
}

- (id<MTLComputeCommandEncoder>)computeCommandEncoderWithDispatchType:(MTLDispatchType)dispatchType {
    if ([self isCommitted])
        emu_refuse(@"-[MTLCommandBuffer computeCommandEncoder]: the command buffer is committed");
    if (_openEncoder) {
        [self misuse:@"-[MTLCommandBuffer computeCommandEncoder]: another encoder has not ended"];
        return nil;
    }
    if (emu_calls_fails(EMU_CALL_ENCODER))
        return nil;
    _openEncoder = [[EMUComputeEncoder alloc] initWithCommandBuffer:self type:dispatchType];
    return [_openEncoder autorelease];
}

- (void)pushDebugGroup:(NSString *)string {
    if (!string)
        [self misuse:@"-[MTLCommandBuffer pushDebugGroup:]: the string is nil"];
    ++_debugGroups;
}

- (void)popDebugGroup {
    if (_debugGroups == 0)
        [self misuse:@"-[MTLCommandBuffer popDebugGroup]: no group is pushed"];
    else
        --_debugGroups;
}

- (void)add:(MTLCommandBufferHandler)block to:(emu_handlers *)handlers as:(SEL)selector {
    if (!block || [self isCommitted])
        emu_refuse(@"-[MTLCommandBuffer %@]: %s", NSStringFromSelector(selector),
                   block ? "the command buffer is committed" : "the block is nil");
    emu_handlers_add(handlers, block);
}

- (void)addScheduledHandler:(MTLCommandBufferHandler)block {
    [self add:block to:&_scheduledHandlers as:_cmd];
}

- (void)addCompletedHandler:(MTLCommandBufferHandler)block {
    [self add:block to:&_completedHandlers as:_cmd];
}

/* ------------------------------------------------------------------ submission */

- (void)enqueue {
    pthread_mutex_lock(&emu_scheduler_lock);
    const BOOL fresh = _status == MTLCommandBufferStatusNotEnqueued;
    if (fresh) {
        _status = MTLCommandBufferStatusEnqueued;
        [_queue enqueue:self];
    }
    pthread_mutex_unlock(&emu_scheduler_lock);
    if (!fresh)
        emu_refuse(@"-[MTLCommandBuffer enqueue]: the command buffer is already enqueued");
}

- (void)commit {
    if ([self isCommitted])
        emu_refuse(@"-[MTLCommandBuffer commit]: the command buffer is already committed");
    if (_openEncoder) {
        [self misuse:@"-[MTLCommandBuffer commit]: an encoder has not ended"];
        [_openEncoder abandon];
        _openEncoder = nil;
    }
    _failsOnCommit = emu_calls_fails(EMU_CALL_EXECUTION);
    pthread_mutex_lock(&emu_scheduler_lock);
    if (_status == MTLCommandBufferStatusNotEnqueued)
        [_queue enqueue:self];
    _status = MTLCommandBufferStatusCommitted;
    [_queue noteCommit];
    emu_scheduler_submit(self);
    pthread_mutex_unlock(&emu_scheduler_lock);
}

- (void)waitFor:(const BOOL *)event as:(SEL)selector {
    if (![self isCommitted])
        emu_refuse(@"-[MTLCommandBuffer %@]: the command buffer is not committed", NSStringFromSelector(selector));
    if (emu_scheduler_is_this_thread()) {
        if ([self status] < MTLCommandBufferStatusCompleted)
            emu_refuse(@"-[MTLCommandBuffer %@]: called by a handler, it would block for ever",
                       NSStringFromSelector(selector));
        return;
    }
    pthread_mutex_lock(&emu_scheduler_lock);
    while (!*event)
        pthread_cond_wait(&emu_scheduler_changed, &emu_scheduler_lock);
    pthread_mutex_unlock(&emu_scheduler_lock);
}

- (void)waitUntilScheduled {
    [self waitFor:&_scheduled as:_cmd];
}

- (void)waitUntilCompleted {
    [self waitFor:&_finished as:_cmd];
}

/* ------------------------------------------------------------------ execution, on the scheduler's thread */

- (void)schedule {
    pthread_mutex_lock(&emu_scheduler_lock);
    _kernelStartTime = now();
    _status = MTLCommandBufferStatusScheduled;
    pthread_mutex_unlock(&emu_scheduler_lock);
    emu_handlers_call(&_scheduledHandlers, self);
    emu_handlers_clear(&_scheduledHandlers);
    pthread_mutex_lock(&emu_scheduler_lock);
    _scheduled = YES;
    _kernelEndTime = now();
    pthread_cond_broadcast(&emu_scheduler_changed);
    pthread_mutex_unlock(&emu_scheduler_lock);
}

- (NSError *)execute {
    if (_misuse)
        return emu_error(MTLCommandBufferErrorDomain, MTLCommandBufferErrorInternal, _misuse);
    if (_failsOnCommit)
        return emu_error(MTLCommandBufferErrorDomain, MTLCommandBufferErrorOutOfMemory, @EMU_INJECTED);
    for (EMUPass *pass in _passes) {
        NSError *error = [pass execute];
        if (error) {
            emu_log([[@"fault: " stringByAppendingString:[error localizedDescription]] UTF8String]);
            return error;
        }
    }
    return nil;
}

- (void)run {
    [self schedule];
    const CFTimeInterval start = now();
    NSError *error = [self execute];
    [_passes removeAllObjects];
    [_resources removeAllObjects];
    pthread_mutex_lock(&emu_scheduler_lock);
    _GPUStartTime = start;
    _GPUEndTime = now();
    _error = [error retain];
    _status = error ? MTLCommandBufferStatusError : MTLCommandBufferStatusCompleted;
    [_queue remove:self ran:YES];
    pthread_mutex_unlock(&emu_scheduler_lock);
    emu_handlers_call(&_completedHandlers, self);
    emu_handlers_clear(&_completedHandlers);
    pthread_mutex_lock(&emu_scheduler_lock);
    _finished = YES;
    pthread_cond_broadcast(&emu_scheduler_changed);
    pthread_mutex_unlock(&emu_scheduler_lock);
}

@end

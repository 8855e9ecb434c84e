#import "compute_encoder.h"

#import "buffer.h"
#import "command_buffer.h"
#import "pass.h"
#import "pipeline.h"
#include "live.h"

@implementation EMUComputeEncoder

- (instancetype)initWithCommandBuffer:(EMUCommandBuffer *)commandBuffer type:(MTLDispatchType)type {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_COMPUTE_ENCODER);
        _commandBuffer = [commandBuffer retain];
        _pass = [[EMUPass alloc] initWithType:type];
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_COMPUTE_ENCODER);
    if (!_ended) {
        [_commandBuffer misuse:@"an MTLComputeCommandEncoder was deallocated before -endEncoding"];
        [_commandBuffer encoderEnded:_pass];
    }
    for (size_t i = 0; i < EMU_BUFFER_SLOTS; ++i)
        [self clear:i];
    [_pipeline release];
    [_pass release];
    [_commandBuffer release];
    [_label release];
    [super dealloc];
}

@synthesize label = _label;

- (id<MTLDevice>)device {
    return [_commandBuffer device];
}

- (MTLDispatchType)dispatchType {
    return [_pass type];
}

/* ------------------------------------------------------------------ validation */

- (void)misuse:(SEL)selector because:(NSString *)format, ... NS_FORMAT_FUNCTION(2, 3) {
    va_list arguments;
    va_start(arguments, format);
    NSString *reason = [[[NSString alloc] initWithFormat:format arguments:arguments] autorelease];
    va_end(arguments);
    [_commandBuffer misuse:[NSString stringWithFormat:@"-[MTLComputeCommandEncoder %@]: %@",
                                                      NSStringFromSelector(selector), reason]];
}

- (BOOL)isOpenFor:(SEL)selector {
    if (_ended)
        [self misuse:selector because:@"the encoder has ended"];
    return !_ended;
}

- (BOOL)index:(NSUInteger)index isLegalFor:(SEL)selector {
    if (![self isOpenFor:selector])
        return NO;
    if (index >= EMU_BUFFER_SLOTS)
        [self misuse:selector because:@"index %lu is over %d", (unsigned long)index, EMU_BUFFER_SLOTS - 1];
    return index < EMU_BUFFER_SLOTS;
}

- (BOOL)belongsHere:(id<MTLResource>)resource for:(SEL)selector {
    if (resource && [resource device] == [self device])
        return YES;
    [self misuse:selector because:resource ? @"the resource is of another device" : @"a resource is nil"];
    return NO;
}

/* ------------------------------------------------------------------ arguments */

- (void)clear:(NSUInteger)index {
    [_slots[index].memory release];
    [_slots[index].bytes release];
    _slots[index] = (emu_slot){nil, 0, nil};
}

- (void)setComputePipelineState:(id<MTLComputePipelineState>)state {
    if (![self isOpenFor:_cmd])
        return;
    if (!state || [state device] != [self device]) {
        [self misuse:_cmd because:@"the pipeline is nil or of another device"];
        return;
    }
    [_pipeline release];
    _pipeline = [(EMUPipeline *)state retain];
}

- (void)setBytes:(const void *)bytes length:(NSUInteger)length atIndex:(NSUInteger)index {
    if (![self index:index isLegalFor:_cmd])
        return;
    if (!bytes || length == 0 || length > EMU_MAX_BYTES_LENGTH) {
        [self misuse:_cmd
             because:@"%lu bytes at %p; setBytes takes 1 to %d", (unsigned long)length, bytes, EMU_MAX_BYTES_LENGTH];
        return;
    }
    [self clear:index];
    _slots[index].bytes = [[NSData alloc] initWithBytes:bytes length:length];
}

- (void)setBuffer:(id<MTLBuffer>)buffer offset:(NSUInteger)offset atIndex:(NSUInteger)index {
    if (![self index:index isLegalFor:_cmd])
        return;
    if (!buffer) {
        [self clear:index];
        return;
    }
    if (![self belongsHere:buffer for:_cmd])
        return;
    if (offset >= [buffer length]) {
        [self misuse:_cmd
             because:@"offset %lu at index %lu is beyond the buffer, whose length is %lu", (unsigned long)offset,
                     (unsigned long)index, (unsigned long)[buffer length]];
        return;
    }
    EMUMemory *memory = [[(EMUBuffer *)buffer memory] retain];
    [self clear:index];
    _slots[index] = (emu_slot){memory, offset, nil};
    [_commandBuffer keep:buffer];
}

- (void)setBufferOffset:(NSUInteger)offset atIndex:(NSUInteger)index {
    if (![self index:index isLegalFor:_cmd])
        return;
    EMUMemory *memory = _slots[index].memory;
    if (!memory || offset >= [memory length])
        [self misuse:_cmd
             because:memory ? @"offset %lu at index %lu is beyond the buffer" : @"offset %lu: no buffer at index %lu",
                     (unsigned long)offset, (unsigned long)index];
    else
        _slots[index].offset = offset;
}

- (void)setBuffers:(const id<MTLBuffer> _Nullable[])buffers
           offsets:(const NSUInteger[])offsets
         withRange:(NSRange)range {
    for (NSUInteger i = 0; i < range.length; ++i)
        [self setBuffer:buffers[i] offset:offsets[i] atIndex:range.location + i];
}

- (void)setThreadgroupMemoryLength:(NSUInteger)length atIndex:(NSUInteger)index {
    if (![self index:index isLegalFor:_cmd])
        return;
    if (length % 16 || length > EMU_MAX_THREADGROUP_MEMORY)
        [self misuse:_cmd
             because:@"%lu bytes; the length has to be a multiple of 16, up to %d", (unsigned long)length,
                     EMU_MAX_THREADGROUP_MEMORY];
    else
        _threadgroupMemory[index] = length;
}

- (void)useResource:(id<MTLResource>)resource usage:(MTLResourceUsage)usage {
    [self useResources:&resource count:1 usage:usage];
}

- (void)useResources:(const id<MTLResource>[])resources count:(NSUInteger)count usage:(MTLResourceUsage)usage {
    if (![self isOpenFor:_cmd])
        return;
    if (usage == 0)
        [self misuse:_cmd because:@"the usage is 0"];
    for (NSUInteger i = 0; i < count; ++i) {
        if ([self belongsHere:resources[i] for:_cmd])
            [_commandBuffer keep:resources[i]];
    }
}

/* ------------------------------------------------------------------ commands */

- (void)dispatch:(MTLSize)threadgroups threads:(MTLSize)threads for:(SEL)selector {
    if (!_pipeline) {
        [self misuse:selector because:@"no compute pipeline state is set"];
        return;
    }
    EMUDispatch *dispatch = [[[EMUDispatch alloc] initWithPipeline:_pipeline
                                                             slots:_slots
                                                 threadgroupMemory:_threadgroupMemory
                                                      threadgroups:threadgroups
                                                           threads:threads] autorelease];
    NSString *invalidity = [dispatch invalidity];
    if (invalidity)
        [self misuse:selector because:@"%@", invalidity];
    else
        [_pass addDispatch:dispatch];
}

- (void)dispatchThreadgroups:(MTLSize)threadgroupsPerGrid threadsPerThreadgroup:(MTLSize)threadsPerThreadgroup {
    if ([self isOpenFor:_cmd])
        [self dispatch:threadgroupsPerGrid threads:threadsPerThreadgroup for:_cmd];
}

- (void)dispatchThreads:(MTLSize)threadsPerGrid threadsPerThreadgroup:(MTLSize)threadsPerThreadgroup {
    if (![self isOpenFor:_cmd])
        return;
    const NSUInteger grid[] = {threadsPerGrid.width, threadsPerGrid.height, threadsPerGrid.depth};
    const NSUInteger group[] = {threadsPerThreadgroup.width, threadsPerThreadgroup.height, threadsPerThreadgroup.depth};
    NSUInteger groups[3] = {0};
    for (int i = 0; i < 3; ++i) {
        if (group[i] && grid[i] % group[i]) {
            [self misuse:_cmd because:@"the grid is no multiple of the threadgroup, which the emulator cannot run"];
            return;
        }
        groups[i] = group[i] ? grid[i] / group[i] : 0;
    }
    [self dispatch:MTLSizeMake(groups[0], groups[1], groups[2]) threads:threadsPerThreadgroup for:_cmd];
}

- (void)memoryBarrierWithScope:(MTLBarrierScope)scope {
    if (![self isOpenFor:_cmd])
        return;
    if (scope & ~(MTLBarrierScope)(MTLBarrierScopeBuffers | MTLBarrierScopeTextures))
        [self misuse:_cmd because:@"a compute encoder has no such scope"];
    else if (scope & MTLBarrierScopeBuffers)
        [_pass addBarrier];
}

- (void)memoryBarrierWithResources:(const id<MTLResource>[])resources count:(NSUInteger)count {
    if (![self isOpenFor:_cmd])
        return;
    NSMutableArray *memories = [NSMutableArray array];
    for (NSUInteger i = 0; i < count; ++i) {
        if ([self belongsHere:resources[i] for:_cmd])
            [memories addObject:[(EMUBuffer *)resources[i] memory]];
    }
    [_pass addBarrierOf:memories];
}

- (void)insertDebugSignpost:(NSString *)string {
    if ([self isOpenFor:_cmd] && !string)
        [self misuse:_cmd because:@"the string is nil"];
}

- (void)pushDebugGroup:(NSString *)string {
    if ([self isOpenFor:_cmd] && !string)
        [self misuse:_cmd because:@"the string is nil"];
    ++_debugGroups;
}

- (void)popDebugGroup {
    if (![self isOpenFor:_cmd])
        return;
    if (_debugGroups == 0)
        [self misuse:_cmd because:@"no group is pushed"];
    else
        --_debugGroups;
}

/* ------------------------------------------------------------------ ending */

- (void)endEncoding {
    if (![self isOpenFor:_cmd])
        return;
    _ended = YES;
    [_commandBuffer encoderEnded:_pass];
}

- (void)abandon {
    _ended = YES;
}

@end

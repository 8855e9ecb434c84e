#import "device.h"

#include <pthread.h>
#include <string.h>

#import "buffer.h"
#import "errors.h"
#import "library.h"
#import "pipeline.h"
#import "queue.h"
#include "calls.h"
#include "emulator.h"
#include "live.h"
#include "log.h"
#include "settings.h"

/* As on Apple, all callers share one object, which lives while one of them holds it. */
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static EMUDevice *shared;

static EMUDevice *copy_shared_device(void) {
    pthread_mutex_lock(&shared_lock);
    @try {
        if (shared)
            [shared retain];
        else
            shared = [[EMUDevice alloc] init];
        return shared;
    } @finally {
        pthread_mutex_unlock(&shared_lock);
    }
}

id<MTLDevice> MTLCreateSystemDefaultDevice(void) {
    return emu_calls_fails(EMU_CALL_DEVICE) ? nil : copy_shared_device();
}

NSArray<id<MTLDevice>> *MTLCopyAllDevices(void) {
    if (emu_calls_fails(EMU_CALL_DEVICE))
        return [[NSArray alloc] init];
    EMUDevice *device = copy_shared_device();
    NSArray *devices = [[NSArray alloc] initWithObjects:device, nil];
    [device release];
    return devices;
}

@implementation EMUDevice

- (instancetype)init {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_DEVICE);
        _gpu = emu_gpu_selected();
    }
    return self;
}

- (oneway void)release {
    pthread_mutex_lock(&shared_lock);
    if ([self retainCount] == 1)
        shared = nil;
    [super release];
    pthread_mutex_unlock(&shared_lock);
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_DEVICE);
    [super dealloc];
}

- (const emu_gpu *)gpu {
    return _gpu;
}

- (void)addAllocated:(NSInteger)bytes {
    _allocated += (NSUInteger)bytes;
}

- (NSString *)name {
    return [NSString stringWithUTF8String:_gpu->name];
}

- (uint64_t)registryID {
    return 0x100000000 + (uint64_t)_gpu->apple;
}

- (MTLSize)maxThreadsPerThreadgroup {
    return MTLSizeMake(EMU_MAX_THREADS_PER_THREADGROUP, EMU_MAX_THREADS_PER_THREADGROUP,
                       EMU_MAX_THREADS_PER_THREADGROUP);
}

- (BOOL)isLowPower {
    return NO;
}

- (BOOL)isHeadless {
    return NO;
}

- (BOOL)isRemovable {
    return NO;
}

- (BOOL)hasUnifiedMemory {
    return YES;
}

- (uint64_t)recommendedMaxWorkingSetSize {
    return emu_setting_number("METAL_EMULATOR_WORKING_SET", _gpu->working_set);
}

- (NSUInteger)currentAllocatedSize {
    return _allocated;
}

- (NSUInteger)maxThreadgroupMemoryLength {
    return EMU_MAX_THREADGROUP_MEMORY;
}

- (NSUInteger)maxBufferLength {
    return emu_setting_number("METAL_EMULATOR_MAX_BUFFER_LENGTH", _gpu->max_buffer_length);
}

- (BOOL)supportsFamily:(MTLGPUFamily)gpuFamily {
    if (gpuFamily >= MTLGPUFamilyCommon1 && gpuFamily <= MTLGPUFamilyCommon3)
        return YES;
    if (gpuFamily >= MTLGPUFamilyApple1 && gpuFamily <= MTLGPUFamilyApple10)
        return gpuFamily - MTLGPUFamilyApple1 < _gpu->apple;
    if (gpuFamily == MTLGPUFamilyMac1 || gpuFamily == MTLGPUFamilyMac2)
        return _gpu->apple > 0;
    return gpuFamily == MTLGPUFamilyMetal3 && _gpu->metal3;
}

/* ------------------------------------------------------------------ queues */

- (id<MTLCommandQueue>)newCommandQueue {
    return [self newCommandQueueWithMaxCommandBufferCount:64];
}

- (id<MTLCommandQueue>)newCommandQueueWithMaxCommandBufferCount:(NSUInteger)maxCommandBufferCount {
    if (maxCommandBufferCount == 0)
        emu_refuse(@"-[MTLDevice newCommandQueueWithMaxCommandBufferCount:]: the count is 0");
    return emu_calls_fails(EMU_CALL_QUEUE) ? nil : [[EMUQueue alloc] initWithDevice:self limit:maxCommandBufferCount];
}

/* ------------------------------------------------------------------ buffers */

/* Metal answers these mistakes with nil, and says why only under its debug layer. */
- (BOOL)acceptsLength:(NSUInteger)length options:(MTLResourceOptions)options {
    NSString *reason = nil;
    if (length == 0)
        reason = @"a buffer of length 0";
    else if (length > [self maxBufferLength])
        reason = [NSString stringWithFormat:@"a buffer of length %lu, maxBufferLength is %lu", (unsigned long)length,
                                            (unsigned long)[self maxBufferLength]];
    else if ((options >> MTLResourceStorageModeShift & 0xf) == MTLStorageModeMemoryless)
        reason = @"a memoryless buffer";
    if (reason)
        emu_log([[@"refused: " stringByAppendingString:reason] UTF8String]);
    return reason == nil;
}

- (id<MTLBuffer>)newBufferWithLength:(NSUInteger)length options:(MTLResourceOptions)options {
    static const char *const fills[] = {"zero", "unwritten"};
    if (emu_calls_fails(EMU_CALL_BUFFER) || ![self acceptsLength:length options:options])
        return nil;
    const emu_fill fill = emu_setting_choice("METAL_EMULATOR_FILL", fills, 2) ? EMU_FILL_UNWRITTEN : EMU_FILL_ZERO;
    EMUMemory *memory = [[EMUMemory alloc] initWithLength:length fill:fill];
    EMUBuffer *buffer = [[EMUBuffer alloc] initWithDevice:self memory:memory options:options];
    [memory release];
    return buffer;
}

- (id<MTLBuffer>)newBufferWithBytes:(const void *)pointer
                             length:(NSUInteger)length
                            options:(MTLResourceOptions)options {
    if (!pointer)
        emu_refuse(@"-[MTLDevice newBufferWithBytes:length:options:]: the pointer is NULL");
    if (emu_calls_fails(EMU_CALL_BUFFER) || ![self acceptsLength:length options:options])
        return nil;
    EMUMemory *memory = [[EMUMemory alloc] initWithLength:length fill:EMU_FILL_ZERO];
    if (memory)
        memcpy([memory base], pointer, length);
    EMUBuffer *buffer = [[EMUBuffer alloc] initWithDevice:self memory:memory options:options];
    [memory release];
    return buffer;
}

- (id<MTLBuffer>)newBufferWithBytesNoCopy:(void *)pointer
                                   length:(NSUInteger)length
                                  options:(MTLResourceOptions)options
                              deallocator:(void (^)(void *pointer, NSUInteger length))deallocator {
    if (emu_calls_fails(EMU_CALL_BUFFER) || ![self acceptsLength:length options:options])
        return nil;
    EMUMemory *memory = [[EMUMemory alloc] initWithPointer:pointer length:length deallocator:deallocator];
    EMUBuffer *buffer = [[EMUBuffer alloc] initWithDevice:self memory:memory options:options];
    [memory release];
    return buffer;
}

/* ------------------------------------------------------------------ code */

- (id<MTLLibrary>)newLibraryWithSource:(NSString *)source options:(MTLCompileOptions *)options error:(NSError **)error {
    if (!source)
        emu_refuse(@"-[MTLDevice newLibraryWithSource:options:error:]: the source is nil");
    if (emu_calls_fails(EMU_CALL_LIBRARY)) {
        emu_report(error, MTLLibraryErrorDomain, MTLLibraryErrorInternal, @EMU_INJECTED);
        return nil;
    }
    return [[EMULibrary alloc] initWithDevice:self source:source options:options error:error];
}

- (id<MTLComputePipelineState>)newComputePipelineStateWithFunction:(id<MTLFunction>)computeFunction
                                                             error:(NSError **)error {
    MTLComputePipelineDescriptor *descriptor = [[[MTLComputePipelineDescriptor alloc] init] autorelease];
    [descriptor setComputeFunction:computeFunction];
    return [self newComputePipelineStateWithDescriptor:descriptor
                                               options:MTLPipelineOptionNone
                                            reflection:NULL
                                                 error:error];
}

- (id<MTLComputePipelineState>)newComputePipelineStateWithDescriptor:(MTLComputePipelineDescriptor *)descriptor
                                                             options:(MTLPipelineOption)options
                                                          reflection:
                                                              (MTLAutoreleasedComputePipelineReflection *)reflection
                                                               error:(NSError **)error {
    if (![descriptor computeFunction])
        emu_refuse(@"-[MTLDevice newComputePipelineState...]: the compute function is nil");
    if (reflection || options & (MTLPipelineOptionBindingInfo | MTLPipelineOptionBufferTypeInfo))
        emu_refuse(@"-[MTLDevice newComputePipelineState...]: the emulator has no reflection");
    if (emu_calls_fails(EMU_CALL_PIPELINE)) {
        emu_report(error, EMUCompilerErrorDomain, EMU_COMPILER_ERROR, @EMU_INJECTED);
        return nil;
    }
    return [[EMUPipeline alloc] initWithDevice:self descriptor:descriptor error:error];
}

@end

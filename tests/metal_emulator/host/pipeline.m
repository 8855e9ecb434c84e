#import "pipeline.h"

#import "device.h"
#import "errors.h"
#import "function.h"
#include "live.h"
#include "settings.h"

@implementation MTLComputePipelineDescriptor

- (instancetype)init {
    if ((self = [super init]))
        emu_live_born(EMU_LIVE_PIPELINE_DESCRIPTOR);
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_PIPELINE_DESCRIPTOR);
    [self reset];
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    MTLComputePipelineDescriptor *copy = [[[self class] allocWithZone:zone] init];
    copy->_label = [_label copy];
    copy->_computeFunction = [_computeFunction retain];
    copy->_maxTotalThreadsPerThreadgroup = _maxTotalThreadsPerThreadgroup;
    copy->_threadGroupSizeIsMultipleOfThreadExecutionWidth = _threadGroupSizeIsMultipleOfThreadExecutionWidth;
    return copy;
}

- (void)reset {
    [self setLabel:nil];
    [self setComputeFunction:nil];
    _maxTotalThreadsPerThreadgroup = 0;
    _threadGroupSizeIsMultipleOfThreadExecutionWidth = NO;
}

@synthesize label = _label;
@synthesize computeFunction = _computeFunction;
@synthesize maxTotalThreadsPerThreadgroup = _maxTotalThreadsPerThreadgroup;
@synthesize threadGroupSizeIsMultipleOfThreadExecutionWidth = _threadGroupSizeIsMultipleOfThreadExecutionWidth;

@end

@implementation EMUPipeline

- (instancetype)initWithDevice:(EMUDevice *)device
                    descriptor:(MTLComputePipelineDescriptor *)descriptor
                         error:(NSError **)error {
    if (!(self = [super init]))
        return nil;
    emu_live_born(EMU_LIVE_PIPELINE);
    EMUFunction *function = (EMUFunction *)[descriptor computeFunction];
    NSString *message = nil;
    if ([function usesMatrices] && ![device gpu]->simdgroup_matrix)
        message = @"Encountered unlowered function call to a simdgroup_matrix operation: this GPU has none";
    else
        _specialisation = [[function specialisationWithMessage:&message] retain];
    if (!_specialisation) {
        emu_report(error, EMUCompilerErrorDomain, EMU_COMPILER_ERROR, message);
        [self release];
        return nil;
    }
    _device = [device retain];
    _label = [[descriptor label] copy];
    _wholeSimdgroups = [descriptor threadGroupSizeIsMultipleOfThreadExecutionWidth];
    _maxThreads = MIN(emu_pipeline_max_threads([self pipeline]),
                      emu_setting_number("METAL_EMULATOR_MAX_THREADS", EMU_MAX_THREADS_PER_THREADGROUP));
    if ([descriptor maxTotalThreadsPerThreadgroup])
        _maxThreads = MIN(_maxThreads, [descriptor maxTotalThreadsPerThreadgroup]);
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_PIPELINE);
    [_specialisation release];
    [_device release];
    [_label release];
    [super dealloc];
}

- (const emu_pipeline *)pipeline {
    return [_specialisation pipeline];
}

- (BOOL)wantsWholeSimdgroups {
    return _wholeSimdgroups;
}

- (NSString *)label {
    return _label;
}

- (id<MTLDevice>)device {
    return _device;
}

- (NSUInteger)maxTotalThreadsPerThreadgroup {
    return _maxThreads;
}

- (NSUInteger)threadExecutionWidth {
    return EMU_SIMD_WIDTH;
}

- (NSUInteger)staticThreadgroupMemoryLength {
    return emu_pipeline_static_threadgroup_memory([self pipeline]);
}

/* Unknown: the code is not in device memory. */
- (NSUInteger)allocatedSize {
    return 0;
}

@end

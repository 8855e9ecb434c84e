#import "dispatch.h"

#import "buffer.h"
#import "errors.h"
#import "pipeline.h"
#include "dispatch_counters.h"
#include "launch_settings.h"

static NSUInteger product(MTLSize size) { return size.width * size.height * size.depth; }

@implementation EMUDispatch

- (instancetype)initWithPipeline:(EMUPipeline *)pipeline
                           slots:(const emu_slot *)slots
               threadgroupMemory:(const NSUInteger *)threadgroupMemory
                    threadgroups:(MTLSize)threadgroups
                         threads:(MTLSize)threads {
    if (!(self = [super init]))
        return nil;
    _pipeline = [pipeline retain];
    _memories = [[NSMutableArray alloc] init];
    _bytes = [[NSMutableArray alloc] init];
    _threadgroups = threadgroups;
    _threads = threads;
    const emu_kernel *kernel = emu_pipeline_kernel([pipeline pipeline]);
    for (size_t i = 0; i < kernel->argument_count; ++i) {
        const uint32_t index = kernel->arguments[i].index;
        if (kernel->arguments[i].kind == EMU_ARGUMENT_THREADGROUP)
            [self bindThreadgroupMemory:threadgroupMemory[index] at:index];
        else
            [self bind:&slots[index] at:index];
    }
    return self;
}

- (void)dealloc {
    [_pipeline release];
    [_memories release];
    [_bytes release];
    [super dealloc];
}

- (void)bind:(const emu_slot *)slot at:(uint32_t)index {
    emu_binding *binding = &_bindings[_bindingCount];
    if (slot->memory) {
        [_memories addObject:slot->memory];
        *binding = (emu_binding){EMU_BINDING_BUFFER, index, [slot->memory base], [slot->memory length], slot -> offset};
        ++_bindingCount;
    } else if (slot->bytes) {
        [_bytes addObject:slot->bytes];
        *binding = (emu_binding){EMU_BINDING_BYTES, index, (void *)[slot->bytes bytes], [slot->bytes length], 0};
        ++_bindingCount;
    }
}

- (void)bindThreadgroupMemory:(NSUInteger)length at:(uint32_t)index {
    if (length)
        _bindings[_bindingCount++] = (emu_binding){EMU_BINDING_THREADGROUP, index, NULL, length, 0};
}

- (BOOL)binds:(const emu_argument *)argument {
    for (NSUInteger i = 0; i < _bindingCount; ++i) {
        if (_bindings[i].index == argument->index &&
            (_bindings[i].kind == EMU_BINDING_THREADGROUP) == (argument->kind == EMU_ARGUMENT_THREADGROUP))
            return YES;
    }
    return NO;
}

- (NSString *)missingBinding {
    const emu_kernel *kernel = emu_pipeline_kernel([_pipeline pipeline]);
    for (size_t i = 0; i < kernel->argument_count; ++i) {
        const emu_argument *argument = &kernel->arguments[i];
        if (![self binds:argument])
            return
                [NSString stringWithFormat:@"%s: missing %s binding at index %u for %s", kernel->name,
                                           argument->kind == EMU_ARGUMENT_THREADGROUP ? "threadgroup memory" : "buffer",
                                           argument->index, argument->name];
    }
    return nil;
}

- (NSUInteger)threadgroupMemory {
    NSUInteger total = [_pipeline staticThreadgroupMemoryLength];
    for (NSUInteger i = 0; i < _bindingCount; ++i) {
        if (_bindings[i].kind == EMU_BINDING_THREADGROUP)
            total += _bindings[i].length;
    }
    return total;
}

- (NSString *)invalidity {
    if (product(_threads) == 0 || product(_threadgroups) == 0)
        return @"a dimension of the grid or of the threadgroup is 0";
    if (MAX(MAX(_threadgroups.width, _threadgroups.height), _threadgroups.depth) > UINT32_MAX)
        return @"the grid has over 2^32 - 1 threadgroups in one dimension";
    if (product(_threads) > [_pipeline maxTotalThreadsPerThreadgroup])
        return [NSString stringWithFormat:@"%lu threads per threadgroup, the pipeline's maxTotalThreadsPerThreadgroup "
                                          @"is %lu",
                                          (unsigned long)product(_threads),
                                          (unsigned long)[_pipeline maxTotalThreadsPerThreadgroup]];
    if ([_pipeline wantsWholeSimdgroups] && product(_threads) % EMU_SIMD_WIDTH)
        return @"the threadgroup is no multiple of threadExecutionWidth, which the pipeline's descriptor promised";
    if ([self threadgroupMemory] > EMU_MAX_THREADGROUP_MEMORY)
        return [NSString stringWithFormat:@"%lu bytes of threadgroup memory, maxThreadgroupMemoryLength is %d",
                                          (unsigned long)[self threadgroupMemory], EMU_MAX_THREADGROUP_MEMORY];
    return [self missingBinding];
}

- (BOOL)uses:(EMUMemory *)memory {
    return [_memories indexOfObjectIdenticalTo:memory] != NSNotFound;
}

- (NSError *)execute {
    for (EMUMemory *memory in _memories) {
        if ([memory isGone])
            return emu_error(MTLCommandBufferErrorDomain, MTLCommandBufferErrorInvalidResource,
                             @"a buffer was deallocated before the command buffer that uses it had run");
    }
    emu_launch launch = {
        .bindings = _bindings,
        .binding_count = _bindingCount,
        .threadgroups = {(uint32_t)_threadgroups.width, (uint32_t)_threadgroups.height, (uint32_t)_threadgroups.depth},
        .threads = {(uint32_t)_threads.width, (uint32_t)_threads.height, (uint32_t)_threads.depth},
    };
    emu_launch_settings_apply(&launch);
    const emu_dispatch_size size = {emu_pipeline_kernel([_pipeline pipeline])->name, product(_threadgroups),
                                    product(_threads), [self threadgroupMemory]};
    emu_fault fault;
    if (emu_run_counted([_pipeline pipeline], &launch, &size, &fault))
        return nil;
    const BOOL memoryFault = fault.kind == EMU_FAULT_OUT_OF_BOUNDS || fault.kind == EMU_FAULT_READ_ONLY;
    return emu_error(MTLCommandBufferErrorDomain,
                     memoryFault ? MTLCommandBufferErrorPageFault : MTLCommandBufferErrorInternal,
                     [NSString stringWithUTF8String:fault.text]);
}

@end

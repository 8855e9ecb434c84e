#import "buffer.h"

#include <Block.h>

#import "device.h"
#import "errors.h"
#include "live.h"
#include "log.h"
#include "mapped.h"

@implementation EMUMemory

- (instancetype)initWithLength:(NSUInteger)length fill:(emu_fill)fill {
    if ((self = [super init])) {
        _length = length;
        _allocated = YES;
        _base = emu_memory_allocate(length, fill);
        if (!_base) {
            [self release];
            return nil;
        }
    }
    return self;
}

- (instancetype)initWithPointer:(void *)pointer
                         length:(NSUInteger)length
                    deallocator:(void (^)(void *, NSUInteger))deallocator {
    if ((self = [super init])) {
        if ((uintptr_t)pointer % EMU_PAGE_SIZE || length % EMU_PAGE_SIZE || !emu_is_mapped(pointer, length)) {
            NSString *reason = [NSString
                stringWithFormat:@"refused: newBufferWithBytesNoCopy:%p length:%lu, which are not whole pages of %d "
                                 @"bytes of this process",
                                 pointer, (unsigned long)length, EMU_PAGE_SIZE];
            emu_log([reason UTF8String]);
            [self release];
            return nil;
        }
        _base = pointer;
        _length = length;
        if (deallocator)
            _deallocator = Block_copy(deallocator);
    }
    return self;
}

- (void)dealloc {
    [self giveBack];
    [super dealloc];
}

- (void *)base {
    return _base;
}

- (NSUInteger)length {
    return _length;
}

- (BOOL)isAllocated {
    return _allocated;
}

- (BOOL)isGone {
    return _gone;
}

- (void)giveBack {
    if (_gone || !_base)
        return;
    _gone = YES;
    if (_allocated)
        emu_memory_free(_base);
    if (_deallocator) {
        _deallocator(_base, _length);
        Block_release(_deallocator);
    }
}

@end

@implementation EMUBuffer

- (instancetype)initWithDevice:(EMUDevice *)device memory:(EMUMemory *)memory options:(MTLResourceOptions)options {
    if ((self = [super init])) {
        emu_live_born(EMU_LIVE_BUFFER);
        if (!memory) {
            [self release];
            return nil;
        }
        _device = [device retain];
        _memory = [memory retain];
        _options = options;
        if ([_memory isAllocated])
            [_device addAllocated:(NSInteger)[_memory length]];
    }
    return self;
}

- (void)dealloc {
    emu_live_died(EMU_LIVE_BUFFER);
    if ([_memory isAllocated])
        [_device addAllocated:-(NSInteger)[_memory length]];
    [_memory giveBack];
    [_memory release];
    [_device release];
    [_label release];
    [super dealloc];
}

@synthesize label = _label;

- (EMUMemory *)memory {
    return _memory;
}

- (id<MTLDevice>)device {
    return _device;
}

- (NSUInteger)length {
    return [_memory length];
}

- (NSUInteger)allocatedSize {
    return ([_memory length] + EMU_PAGE_SIZE - 1) / EMU_PAGE_SIZE * EMU_PAGE_SIZE;
}

- (MTLGPUAddress)gpuAddress {
    return (MTLGPUAddress)[_memory base];
}

- (void *)contents {
    return [self storageMode] == MTLStorageModePrivate ? NULL : [_memory base];
}

- (MTLResourceOptions)resourceOptions {
    return _options;
}

- (MTLCPUCacheMode)cpuCacheMode {
    return _options >> MTLResourceCPUCacheModeShift & 0xf;
}

- (MTLStorageMode)storageMode {
    return _options >> MTLResourceStorageModeShift & 0xf;
}

/* Buffers that a device makes are tracked unless their maker says otherwise. */
- (MTLHazardTrackingMode)hazardTrackingMode {
    const MTLHazardTrackingMode mode = _options >> MTLResourceHazardTrackingModeShift & 0x3;
    return mode == MTLHazardTrackingModeDefault ? MTLHazardTrackingModeTracked : mode;
}

- (void)didModifyRange:(NSRange)range {
    if ([self storageMode] != MTLStorageModeManaged)
        emu_refuse(@"-[MTLBuffer didModifyRange:]: the buffer's storage mode is not managed");
    if (NSMaxRange(range) > [self length] || NSMaxRange(range) < range.location)
        emu_refuse(@"-[MTLBuffer didModifyRange:]: the range ends beyond the buffer");
}

@end

#import <Metal/Metal.h>

#include "emulator.h"

@class EMUDevice;

/* The bytes of a buffer. What is encoded refers to them rather than to the buffer, so that a command buffer without
   retained references notices when the buffer is gone. */
@interface EMUMemory : NSObject {
  @private
    void *_base;
    NSUInteger _length;
    BOOL _allocated;
    void (^_deallocator)(void *, NSUInteger);
    _Atomic BOOL _gone;
}
/* These return nil where Metal does. */
- (instancetype)initWithLength:(NSUInteger)length fill:(emu_fill)fill;
- (instancetype)initWithPointer:(void *)pointer
                         length:(NSUInteger)length
                    deallocator:(void (^)(void *, NSUInteger))deallocator;
- (void *)base;
- (NSUInteger)length;
- (BOOL)isAllocated;
- (BOOL)isGone;
- (void)giveBack; /* the buffer no longer exists */
@end

@interface EMUBuffer : NSObject <MTLBuffer> {
  @private
    EMUDevice *_device;
    EMUMemory *_memory;
    MTLResourceOptions _options;
    NSString *_label;
}
/* nil if the memory is. */
- (instancetype)initWithDevice:(EMUDevice *)device memory:(EMUMemory *)memory options:(MTLResourceOptions)options;
- (EMUMemory *)memory;
@end

#import <Metal/Metal.h>

#include "gpu.h"

@interface EMUDevice : NSObject <MTLDevice> {
  @private
    const emu_gpu *_gpu;
    _Atomic NSUInteger _allocated;
}
- (const emu_gpu *)gpu;
- (void)addAllocated:(NSInteger)bytes;
@end

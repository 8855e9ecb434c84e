#import <Metal/Metal.h>

#include "emulator.h"

@class EMUMemory, EMUPipeline;

/* What a buffer index of an encoder holds: memory at an offset, bytes, or nothing. */
typedef struct {
    EMUMemory *memory;
    NSUInteger offset;
    NSData *bytes;
} emu_slot;

/* One dispatch with all that it needs, as it stood when it was encoded. */
@interface EMUDispatch : NSObject {
  @private
    EMUPipeline *_pipeline;
    NSMutableArray *_memories, *_bytes;
    emu_binding _bindings[2 * EMU_BUFFER_SLOTS];
    NSUInteger _bindingCount;
    MTLSize _threadgroups, _threads;
}
- (instancetype)initWithPipeline:(EMUPipeline *)pipeline
                           slots:(const emu_slot *)slots
               threadgroupMemory:(const NSUInteger *)threadgroupMemory
                    threadgroups:(MTLSize)threadgroups
                         threads:(MTLSize)threads;

/* Why Metal's validation would refuse it; nil if it would not. */
- (NSString *)invalidity;
- (BOOL)uses:(EMUMemory *)memory;
- (NSError *)execute; /* nil if all went well */
@end

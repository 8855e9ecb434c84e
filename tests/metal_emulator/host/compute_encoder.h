#import <Metal/Metal.h>

#import "dispatch.h"

@class EMUCommandBuffer, EMUPass;

@interface EMUComputeEncoder : NSObject <MTLComputeCommandEncoder> {
  @private
    EMUCommandBuffer *_commandBuffer;
    EMUPass *_pass;
    EMUPipeline *_pipeline;
    emu_slot _slots[EMU_BUFFER_SLOTS];
    NSUInteger _threadgroupMemory[EMU_BUFFER_SLOTS];
    NSString *_label;
    NSUInteger _debugGroups;
    BOOL _ended;
}
- (instancetype)initWithCommandBuffer:(EMUCommandBuffer *)commandBuffer type:(MTLDispatchType)type;
- (void)abandon; /* its command buffer was committed without it */
@end

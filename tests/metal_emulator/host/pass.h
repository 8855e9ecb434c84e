#import <Metal/Metal.h>

@class EMUDispatch;

/* What one compute encoder encoded. Dispatches of a concurrent encoder run in any order that its barriers allow, and
   the emulator takes one that differs from the order of encoding if METAL_EMULATOR_ORDER asks for it. */
@interface EMUPass : NSObject {
  @private
    MTLDispatchType _type;
    NSMutableArray *_steps; /* EMUDispatch; NSArray of EMUMemory for a barrier of these; NSNull for a barrier of all */
}
- (instancetype)initWithType:(MTLDispatchType)type;
- (MTLDispatchType)type;
- (void)addDispatch:(EMUDispatch *)dispatch;
- (void)addBarrier;
- (void)addBarrierOf:(NSArray *)memories;
- (NSError *)execute; /* nil if all went well; else nothing after the dispatch that failed has run */
@end

#import <Metal/Metal.h>

@class EMUCommandBuffer, EMUDevice;

/* Methods that say so are called with the scheduler's lock held. */
@interface EMUQueue : NSObject <MTLCommandQueue> {
  @private
    EMUDevice *_device;
    NSString *_label;
    NSUInteger _limit, _uncompleted, _committed;
    NSMutableArray *_order; /* enqueued and not completed; not retained */
}
- (instancetype)initWithDevice:(EMUDevice *)device limit:(NSUInteger)limit;
- (void)enqueue:(EMUCommandBuffer *)commandBuffer;              /* locked */
- (void)noteCommit;                                             /* locked */
- (BOOL)isNext:(EMUCommandBuffer *)commandBuffer;               /* locked */
- (void)remove:(EMUCommandBuffer *)commandBuffer ran:(BOOL)ran; /* locked; it completed, or was never committed */
@end

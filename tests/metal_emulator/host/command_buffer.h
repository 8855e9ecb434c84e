#import <Metal/Metal.h>

#import "handlers.h"

@class EMUComputeEncoder, EMUPass, EMUQueue;

@interface EMUCommandBuffer : NSObject <MTLCommandBuffer> {
  @private
    EMUQueue *_queue;
    BOOL _retainedReferences, _failsOnCommit, _scheduled, _finished;
    MTLCommandBufferErrorOption _errorOptions;
    MTLCommandBufferStatus _status;
    NSString *_label, *_misuse;
    NSError *_error;
    NSMutableArray *_passes, *_resources;
    EMUComputeEncoder *_openEncoder; /* not retained: it retains the command buffer */
    emu_handlers _scheduledHandlers, _completedHandlers;
    CFTimeInterval _kernelStartTime, _kernelEndTime, _GPUStartTime, _GPUEndTime;
    NSUInteger _debugGroups;
}
- (instancetype)initWithQueue:(EMUQueue *)queue
           retainedReferences:(BOOL)retainedReferences
                 errorOptions:(MTLCommandBufferErrorOption)errorOptions;
- (EMUQueue *)emulatedQueue;
- (void)run; /* by the scheduler */

/* For its encoders. Misuse makes it fail instead of running. */
- (void)misuse:(NSString *)text;
- (void)keep:(id)resource;
- (void)encoderEnded:(EMUPass *)pass;
@end

#import <Metal/Metal.h>

#include "emulator.h"

@class EMUDevice, EMUSpecialisation;

@interface EMUPipeline : NSObject <MTLComputePipelineState> {
  @private
    EMUDevice *_device;
    EMUSpecialisation *_specialisation;
    NSString *_label;
    NSUInteger _maxThreads;
    BOOL _wholeSimdgroups;
}
- (instancetype)initWithDevice:(EMUDevice *)device
                    descriptor:(MTLComputePipelineDescriptor *)descriptor
                         error:(NSError **)error;
- (const emu_pipeline *)pipeline;
/* The descriptor promised that threadgroups are multiples of threadExecutionWidth. */
- (BOOL)wantsWholeSimdgroups;
@end

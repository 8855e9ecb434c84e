#pragma once

#import <Metal/MTLResource.h>

NS_ASSUME_NONNULL_BEGIN

@protocol MTLBuffer <MTLResource>
@property(readonly) NSUInteger length;
@property(readonly) MTLGPUAddress gpuAddress;
- (void *)contents __attribute__((objc_returns_inner_pointer));
- (void)didModifyRange:(NSRange)range;
@end

NS_ASSUME_NONNULL_END

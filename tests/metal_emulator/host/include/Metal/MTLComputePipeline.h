#pragma once

#import <Metal/MTLLibrary.h>

NS_ASSUME_NONNULL_BEGIN

/* The emulator reflects nothing: only a null pointer may be passed for one. */
@class MTLComputePipelineReflection;
typedef __autoreleasing MTLComputePipelineReflection *_Nullable MTLAutoreleasedComputePipelineReflection;

@interface MTLComputePipelineDescriptor : NSObject <NSCopying> {
  @private
    NSString *_label;
    id<MTLFunction> _computeFunction;
    NSUInteger _maxTotalThreadsPerThreadgroup;
    BOOL _threadGroupSizeIsMultipleOfThreadExecutionWidth;
}
@property(nullable, copy, nonatomic) NSString *label;
@property(nullable, readwrite, nonatomic, strong) id<MTLFunction> computeFunction;
@property(readwrite, nonatomic) BOOL threadGroupSizeIsMultipleOfThreadExecutionWidth;
@property(readwrite, nonatomic) NSUInteger maxTotalThreadsPerThreadgroup;
- (void)reset;
@end

@protocol MTLComputePipelineState <MTLAllocation, NSObject>
@property(nullable, readonly) NSString *label;
@property(readonly) id<MTLDevice> device;
@property(readonly) NSUInteger maxTotalThreadsPerThreadgroup;
@property(readonly) NSUInteger threadExecutionWidth;
@property(readonly) NSUInteger staticThreadgroupMemoryLength;
@end

NS_ASSUME_NONNULL_END

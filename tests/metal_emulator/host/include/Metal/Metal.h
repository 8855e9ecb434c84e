/* Metal for Linux: what a compute backend uses of Apple's framework, over tests/metal_emulator. ../../api.csv has the
   public source of every name. What Apple has and this has not fails to compile. */
#pragma once

#import <Metal/MTLTypes.h>
#import <Metal/MTLDataType.h>
#import <Metal/MTLResource.h>
#import <Metal/MTLBuffer.h>
#import <Metal/MTLFunctionConstantValues.h>
#import <Metal/MTLLibrary.h>
#import <Metal/MTLComputePipeline.h>
#import <Metal/MTLCommandEncoder.h>
#import <Metal/MTLComputeCommandEncoder.h>
#import <Metal/MTLCommandBuffer.h>
#import <Metal/MTLCommandQueue.h>
#import <Metal/MTLDevice.h>

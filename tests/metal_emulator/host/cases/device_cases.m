#import "case.h"

#include <stdio.h>

CASE(device_is_one_object) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLDevice> again = MTLCreateSystemDefaultDevice();
    NSArray<id<MTLDevice>> *all = MTLCopyAllDevices();
    CHECK(device && device == again);
    CHECK([all count] == 1 && [all objectAtIndex:0] == device);
    CHECK(emu_live_count("MTLDevice") == 1);
    CHECK([device conformsToProtocol:NSProtocolFromString(@"MTLDevice")]);
    [all release];
    [again release];
    CHECK(emu_live_count("MTLDevice") == 1);
    [device release];
    CHECK(emu_live_count("MTLDevice") == 0);
    device = MTLCreateSystemDefaultDevice();
    CHECK([[device name] length] > 0);
    [device release];
}

/* Printed for the test, which knows what each METAL_EMULATOR_GPU supports. */
CASE(device_describes_itself) {
    static const MTLGPUFamily families[] = {
        MTLGPUFamilyApple1,  MTLGPUFamilyApple6, MTLGPUFamilyApple7,  MTLGPUFamilyApple8, MTLGPUFamilyApple9,
        MTLGPUFamilyApple10, MTLGPUFamilyMac2,   MTLGPUFamilyCommon3, MTLGPUFamilyMetal3, MTLGPUFamilyMetal4,
    };
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    printf("name: %s\nfamilies:", [[device name] UTF8String]);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; ++i) {
        if ([device supportsFamily:families[i]])
            printf(" %ld", (long)families[i]);
    }
    printf("\nmaxBufferLength: %lu\nworkingSet: %lu\n", (unsigned long)[device maxBufferLength],
           (unsigned long)[device recommendedMaxWorkingSetSize]);
    CHECK([device hasUnifiedMemory] && ![device isLowPower] && ![device isRemovable] && [device registryID] != 0);
    CHECK([device maxThreadgroupMemoryLength] == 32768);
    CHECK([device maxThreadsPerThreadgroup].width == 1024);
    [device release];
}

CASE(unknown_selector_through_id) {
    id device = MTLCreateSystemDefaultDevice();
    SEL invented = NSSelectorFromString(@"newFancyBuffer");
    CHECK(![device respondsToSelector:invented]);
    CHECK([device respondsToSelector:@selector(newCommandQueue)]);
    CHECK_RAISES([device performSelector:invented], @"newFancyBuffer");
    [device release];
}

/* A copied block keeps what it captures, as on Apple. */
CASE(blocks_retain_what_they_capture) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    __block int calls = 0;
    void (^blocks[2])(void);
    @autoreleasepool {
        for (int i = 0; i < 2; ++i) {
            id<MTLBuffer> buffer = [device newBufferWithLength:(NSUInteger)i + 1 options:0];
            void (^block)(void) = ^{
              CHECK([buffer length] == (NSUInteger)i + 1);
              ++calls;
            };
            blocks[i] = Block_copy(block);
            [buffer release];
        }
    }
    CHECK(emu_live_count("MTLBuffer") == 2);
    for (int i = 0; i < 2; ++i) {
        CHECK(Block_copy(blocks[i]) == blocks[i]);
        blocks[i]();
        Block_release(blocks[i]);
        CHECK(emu_live_count("MTLBuffer") == 2 - (size_t)i);
        Block_release(blocks[i]);
    }
    CHECK(emu_live_count("MTLBuffer") == 0 && calls == 2);
    [device release];
}

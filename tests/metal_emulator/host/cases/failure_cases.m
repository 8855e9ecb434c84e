#import "case.h"

#include <stdio.h>
#include <string.h>

/* A whole use of the API by a careful caller: YES if it worked, else *error where Metal gives one. */
static BOOL add_carefully(NSError **error) {
    static NSString *const source = @"#include <metal_stdlib>\n"
                                     "using namespace metal;\n"
                                     "constant bool negate [[function_constant(0)]];\n"
                                     "kernel void copied(device const float *from [[buffer(0)]],\n"
                                     "                 device float *to [[buffer(1)]],\n"
                                     "                 uint i [[thread_position_in_grid]]) {\n"
                                     "    to[i] = negate ? -from[i] : from[i];\n"
                                     "}\n";
    BOOL done = NO;
    const float value[32] = {4.0f};
    const bool negate = true;
    id<MTLCommandBuffer> commandBuffer = nil;
    id<MTLComputeCommandEncoder> encoder = nil;
    MTLFunctionConstantValues *values = [[MTLFunctionConstantValues alloc] init];
    [values setConstantValue:&negate type:MTLDataTypeBool atIndex:0];
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLCommandQueue> queue = [device newCommandQueue];
    id<MTLLibrary> library = [device newLibraryWithSource:source options:nil error:error];
    id<MTLFunction> function = [library newFunctionWithName:@"copied" constantValues:values error:error];
    id<MTLComputePipelineState> pipeline =
        function ? [device newComputePipelineStateWithFunction:function error:error] : nil;
    id<MTLBuffer> from = [device newBufferWithBytes:value length:sizeof value options:0];
    id<MTLBuffer> to = [device newBufferWithLength:sizeof value options:0];
    if (queue && pipeline && from && to)
        commandBuffer = [queue commandBuffer];
    encoder = [commandBuffer computeCommandEncoder];
    if (encoder) {
        [encoder setComputePipelineState:pipeline];
        [encoder setBuffer:from offset:0 atIndex:0];
        [encoder setBuffer:to offset:0 atIndex:1];
        [encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
        [encoder endEncoding];
        finish(commandBuffer);
        done = [commandBuffer status] == MTLCommandBufferStatusCompleted;
        CHECK(*floats(to) == (done ? -4.0f : 0.0f));
        if (!done)
            *error = [commandBuffer error];
    }
    [to release];
    [from release];
    [pipeline release];
    [function release];
    [library release];
    [queue release];
    [device release];
    [values release];
    return done;
}

CASE(every_call_that_can_fail_fails_in_turn) {
    NSError *error = nil;
    emu_calls_reset();
    @autoreleasepool {
        CHECK(add_carefully(&error));
    }
    const size_t calls = emu_calls_count();
    emu_call_kind kinds[32];
    NSUInteger of_kind[EMU_CALL_KINDS] = {0};
    CHECK(calls > 0 && calls < 32);
    for (size_t i = 1; i <= calls; ++i)
        ++of_kind[kinds[i] = emu_calls_kind(i)];
    for (emu_call_kind kind = 0; kind < EMU_CALL_KINDS; ++kind)
        CHECK(of_kind[kind] == (kind == EMU_CALL_BUFFER ? 2 : 1));

    for (size_t i = 1; i <= calls; ++i) {
        @autoreleasepool {
            error = nil;
            emu_calls_reset();
            emu_calls_fail(i);
            CHECK(!add_carefully(&error));
            const BOOL explained = kinds[i] == EMU_CALL_LIBRARY || kinds[i] == EMU_CALL_FUNCTION ||
                                   kinds[i] == EMU_CALL_PIPELINE || kinds[i] == EMU_CALL_EXECUTION;
            CHECK((error != nil) == explained);
            if (explained)
                CHECK([[error localizedDescription] rangeOfString:@"injected"].location != NSNotFound);
        }
        CHECK(emu_live_count(NULL) == 0);
    }
    emu_calls_reset();
    CHECK(add_carefully(&error));
}

CASE(a_call_of_one_kind_fails) {
    NSError *error = nil;
    emu_calls_reset();
    emu_calls_fail_kind(EMU_CALL_BUFFER, 2);
    CHECK(!add_carefully(&error));
    CHECK(add_carefully(&error));
}

/* Under METAL_EMULATOR_FAIL; the test reads the log. */
CASE(the_environment_makes_a_call_fail) {
    NSError *error = nil;
    CHECK(!add_carefully(&error));
    CHECK(strcmp(emu_call_kind_name(EMU_CALL_PIPELINE), "pipeline") == 0);
}

CASE(nothing_grows) {
    rig r = rig_make();
    const size_t before = emu_live_count(NULL);
    for (int i = 0; i < 50; ++i) {
        @autoreleasepool {
            NSError *error = nil;
            CHECK(add_carefully(&error));
            id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
            id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
            encode_add(&r, encoder);
            [encoder endEncoding];
            [commandBuffer commit];
        }
    }
    CHECK(emu_live_count(NULL) == before);
    rig_free(&r);
}

CASE(leaks_are_seen) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLBuffer> leaked = [device newBufferWithLength:64 options:0];
    CHECK(emu_live_count("MTLBuffer") == 1 && emu_live_count("MTLDevice") == 1 && emu_live_count(NULL) == 2);
    [device release];
    CHECK(emu_live_count("MTLDevice") == 1); /* its buffer keeps it */
    [leaked release];
}

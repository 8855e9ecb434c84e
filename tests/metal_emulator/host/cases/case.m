#import "case.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    const char *name;
    void (*run)(void);
} cases[128];
static size_t case_count;
static _Atomic int made, failed;

void case_add(const char *name, void (*run)(void)) {
    cases[case_count].name = name;
    cases[case_count++].run = run;
}

void case_check(BOOL holds, const char *file, int line, const char *condition) {
    ++made;
    if (!holds) {
        ++failed;
        fprintf(stderr, "%s:%d: failed: %s\n", file, line, condition);
    }
}

/* write() looks at the byte on our behalf, and answers EFAULT where we would die. */
BOOL is_unreadable(const void *address) {
    int ends[2];
    if (pipe(ends) != 0)
        return NO;
    const BOOL unreadable = write(ends[1], address, 1) != 1;
    close(ends[0]);
    close(ends[1]);
    return unreadable;
}

static NSString *const source = @"#include <metal_stdlib>\n"
                                 "using namespace metal;\n"
                                 "kernel void add(device const float *first [[buffer(0)]],\n"
                                 "                device const float *second [[buffer(1)]],\n"
                                 "                device float *results [[buffer(2)]],\n"
                                 "                uint i [[thread_position_in_grid]]) {\n"
                                 "    results[i] = first[i] + second[i];\n"
                                 "}\n"
                                 "kernel void step(device float *values [[buffer(0)]],\n"
                                 "                 constant int &amount [[buffer(1)]],\n"
                                 "                 uint i [[thread_position_in_grid]]) {\n"
                                 "    values[i] = 2.0f * values[i] + float(amount);\n"
                                 "}\n";

id<MTLComputePipelineState> make_pipeline(id<MTLLibrary> library, NSString *name) {
    NSError *error = nil;
    id<MTLFunction> function = [library newFunctionWithName:name];
    CHECK(function != nil);
    id<MTLComputePipelineState> pipeline = [[library device] newComputePipelineStateWithFunction:function error:&error];
    CHECK(pipeline != nil && error == nil);
    [function release];
    return pipeline;
}

rig rig_make(void) {
    rig r;
    NSError *error = nil;
    r.device = MTLCreateSystemDefaultDevice();
    r.queue = [r.device newCommandQueue];
    r.library = [r.device newLibraryWithSource:source options:nil error:&error];
    CHECK(r.library != nil && error == nil);
    r.add = make_pipeline(r.library, @"add");
    r.step = make_pipeline(r.library, @"step");
    r.first = [r.device newBufferWithLength:BYTES options:MTLResourceStorageModeShared];
    r.second = [r.device newBufferWithLength:BYTES options:MTLResourceStorageModeShared];
    r.results = [r.device newBufferWithLength:BYTES options:MTLResourceStorageModeShared];
    for (int i = 0; i < COUNT; ++i) {
        floats(r.first)[i] = (float)i;
        floats(r.second)[i] = 100.0f;
    }
    return r;
}

void rig_free(rig *r) {
    [r->first release];
    [r->second release];
    [r->results release];
    [r->add release];
    [r->step release];
    [r->library release];
    [r->queue release];
    [r->device release];
}

float *floats(id<MTLBuffer> buffer) { return [buffer contents]; }

void encode_add(const rig *r, id<MTLComputeCommandEncoder> encoder) {
    [encoder setComputePipelineState:r->add];
    [encoder setBuffer:r->first offset:0 atIndex:0];
    [encoder setBuffer:r->second offset:0 atIndex:1];
    [encoder setBuffer:r->results offset:0 atIndex:2];
    [encoder dispatchThreadgroups:MTLSizeMake(COUNT / 32, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
}

void encode_step(const rig *r, id<MTLComputeCommandEncoder> encoder, id<MTLBuffer> values, int amount) {
    [encoder setComputePipelineState:r->step];
    [encoder setBuffer:values offset:0 atIndex:0];
    [encoder setBytes:&amount length:sizeof amount atIndex:1];
    [encoder dispatchThreads:MTLSizeMake(COUNT, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
}

void finish(id<MTLCommandBuffer> commandBuffer) {
    [commandBuffer commit];
    [commandBuffer waitUntilCompleted];
}

int main(int argc, char **argv) {
    for (size_t i = 0; i < case_count; ++i) {
        if (argc != 2 || strcmp(cases[i].name, argv[1]) != 0)
            continue;
        @autoreleasepool {
            cases[i].run();
        }
        CHECK(emu_live_count(NULL) == 0);
        printf("%d checks, %d failed\n", made, failed);
        return failed != 0;
    }
    fprintf(stderr, "usage: %s CASE\n", argv[0]);
    return 2;
}

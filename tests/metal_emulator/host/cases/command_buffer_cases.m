#import "case.h"

#include <pthread.h>
#include <stdatomic.h>

CASE(vector_add) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    CHECK([commandBuffer status] == MTLCommandBufferStatusNotEnqueued);
    CHECK([commandBuffer retainedReferences] && [commandBuffer commandQueue] == r.queue);
    CHECK([commandBuffer GPUStartTime] == 0.0 && [commandBuffer GPUEndTime] == 0.0);
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    encode_add(&r, encoder);
    [encoder endEncoding];
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted && [commandBuffer error] == nil);
    CHECK([commandBuffer GPUStartTime] > 0.0 && [commandBuffer GPUEndTime] >= [commandBuffer GPUStartTime]);
    CHECK([commandBuffer kernelStartTime] > 0.0 && [commandBuffer kernelEndTime] >= [commandBuffer kernelStartTime]);
    for (int i = 0; i < COUNT; ++i)
        CHECK(floats(r.results)[i] == (float)i + 100.0f);
    rig_free(&r);
}

CASE(handlers_run_in_order_and_before_waits_return) {
    rig r = rig_make();
    NSMutableArray *seen = [NSMutableArray array];
    pthread_t waiter = pthread_self();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    [commandBuffer addScheduledHandler:^(id<MTLCommandBuffer> scheduled) {
      CHECK([scheduled status] == MTLCommandBufferStatusScheduled && !pthread_equal(waiter, pthread_self()));
      [seen addObject:@"scheduled"];
    }];
    for (NSString *name in @[ @"first", @"second" ]) {
        [commandBuffer addCompletedHandler:^(id<MTLCommandBuffer> done) {
          CHECK([done status] == MTLCommandBufferStatusCompleted && [done GPUEndTime] > 0.0);
          [done waitUntilCompleted];
          [seen addObject:name];
        }];
    }
    [commandBuffer commit];
    [commandBuffer waitUntilScheduled];
    [commandBuffer waitUntilCompleted];
    [commandBuffer waitUntilCompleted];
    CHECK([seen isEqualToArray:@[ @"scheduled", @"first", @"second" ]]);
    rig_free(&r);
}

CASE(commit_returns_before_the_work_is_done) {
    rig r = rig_make();
    static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&gate);
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    [commandBuffer addScheduledHandler:^(id<MTLCommandBuffer> scheduled) {
      (void)scheduled;
      pthread_mutex_lock(&gate);
      pthread_mutex_unlock(&gate);
    }];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    encode_add(&r, encoder);
    [encoder endEncoding];
    [commandBuffer commit];
    CHECK([commandBuffer status] < MTLCommandBufferStatusCompleted && floats(r.results)[1] == 0.0f);
    pthread_mutex_unlock(&gate);
    [commandBuffer waitUntilCompleted];
    CHECK(floats(r.results)[1] == 101.0f);
    rig_free(&r);
}

/* values = 2 * values + amount does not commute. */
CASE(queue_runs_in_the_order_of_enqueuing) {
    rig r = rig_make();
    id<MTLCommandBuffer> earlier = [r.queue commandBuffer], later = [r.queue commandBuffer];
    [earlier enqueue];
    CHECK([earlier status] == MTLCommandBufferStatusEnqueued);
    id<MTLComputeCommandEncoder> encoder = [later computeCommandEncoder];
    encode_step(&r, encoder, r.results, 10);
    [encoder endEncoding];
    [later commit];
    encoder = [earlier computeCommandEncoder];
    encode_step(&r, encoder, r.results, 1);
    [encoder endEncoding];
    CHECK([later status] == MTLCommandBufferStatusCommitted);
    [earlier commit];
    [later waitUntilCompleted];
    CHECK([earlier status] == MTLCommandBufferStatusCompleted);
    CHECK(floats(r.results)[7] == 2.0f * 1.0f + 10.0f);
    rig_free(&r);
}

static float run_two_steps(MTLDispatchType type, void (^between)(const rig *r, id<MTLComputeCommandEncoder> encoder)) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoderWithDispatchType:type];
    encode_step(&r, encoder, r.results, 1);
    if (between)
        between(&r, encoder);
    encode_step(&r, encoder, r.results, 10);
    [encoder endEncoding];
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted);
    const float value = floats(r.results)[0];
    rig_free(&r);
    return value;
}

/* Under METAL_EMULATOR_ORDER=reverse. */
CASE(concurrent_dispatches_need_barriers) {
    const float ordered = 2.0f * 1.0f + 10.0f, reversed = 2.0f * 10.0f + 1.0f;
    CHECK(run_two_steps(MTLDispatchTypeSerial, nil) == ordered);
    CHECK(run_two_steps(MTLDispatchTypeConcurrent, nil) == reversed);
    CHECK(run_two_steps(MTLDispatchTypeConcurrent, ^(const rig *r, id<MTLComputeCommandEncoder> e) {
            (void)r;
            [e memoryBarrierWithScope:MTLBarrierScopeBuffers];
          }) == ordered);
    CHECK(run_two_steps(MTLDispatchTypeConcurrent, ^(const rig *r, id<MTLComputeCommandEncoder> e) {
            const id<MTLResource> resources[] = {r->first, r->results};
            [e memoryBarrierWithResources:resources count:2];
          }) == ordered);
    CHECK(run_two_steps(MTLDispatchTypeConcurrent, ^(const rig *r, id<MTLComputeCommandEncoder> e) {
            const id<MTLResource> resources[] = {r->first, r->second};
            [e memoryBarrierWithResources:resources count:2];
          }) == reversed);
}

/* Under METAL_EMULATOR_ORDER=reverse. A barrier of a buffer orders only dispatches that both use it. */
CASE(resource_barriers_order_users_of_the_resource) {
    rig r = rig_make();
    for (int i = 0; i < 2; ++i) {
        const id<MTLResource> barrier = i ? r.results : r.first;
        id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
        id<MTLComputeCommandEncoder> encoder =
            [commandBuffer computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
        encode_add(&r, encoder); /* uses both */
        [encoder memoryBarrierWithResources:&barrier count:1];
        encode_step(&r, encoder, r.results, 1); /* uses results */
        [encoder endEncoding];
        finish(commandBuffer);
        CHECK(floats(r.results)[0] == (i ? 2.0f * 100.0f + 1.0f : 100.0f));
    }
    rig_free(&r);
}

CASE(references_are_retained) {
    rig r = rig_make();
    id<MTLBuffer> values = [r.device newBufferWithLength:BYTES options:0];
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    encode_step(&r, encoder, values, 1);
    [encoder endEncoding];
    [values release];
    CHECK(emu_live_count("MTLBuffer") == 4);
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted);
    CHECK(emu_live_count("MTLBuffer") == 3);
    rig_free(&r);
}

CASE(unretained_references_to_a_dead_buffer_are_found) {
    rig r = rig_make();
    MTLCommandBufferDescriptor *descriptor = [[MTLCommandBufferDescriptor alloc] init];
    CHECK([descriptor retainedReferences]);
    [descriptor setRetainedReferences:NO];
    id<MTLCommandBuffer> both[] = {[r.queue commandBufferWithUnretainedReferences],
                                   [r.queue commandBufferWithDescriptor:descriptor]};
    for (int i = 0; i < 2; ++i) {
        CHECK(![both[i] retainedReferences]);
        id<MTLBuffer> values = [r.device newBufferWithLength:BYTES options:0];
        id<MTLComputeCommandEncoder> encoder = [both[i] computeCommandEncoder];
        encode_step(&r, encoder, values, 1);
        [encoder endEncoding];
        [values release];
        finish(both[i]);
        CHECK_ERROR([both[i] error], MTLCommandBufferErrorDomain, MTLCommandBufferErrorInvalidResource, @"deallocated");
    }
    [descriptor release];
    rig_free(&r);
}

CASE(queue_limits_uncompleted_command_buffers) {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    id<MTLCommandQueue> queue = [device newCommandQueueWithMaxCommandBufferCount:2];
    @autoreleasepool {
        [queue commandBuffer];
        [queue commandBuffer];
        CHECK_RAISES([queue commandBuffer], @"nobody committed");
    }
    for (int i = 0; i < 10; ++i)
        [[queue commandBuffer] commit]; /* waits for room */
    [queue release];
    [device release];
}

CASE(queues_work_side_by_side) {
    rig r = rig_make();
    id<MTLCommandQueue> other = [r.device newCommandQueue];
    id<MTLCommandBuffer> blocked = [r.queue commandBuffer], behind = [r.queue commandBuffer];
    [blocked enqueue];
    [behind commit];
    finish([other commandBuffer]);
    CHECK([behind status] == MTLCommandBufferStatusCommitted);
    [blocked commit];
    [behind waitUntilCompleted];
    [other release];
    rig_free(&r);
}

static void *submit(void *context) {
    const rig *r = context;
    for (int i = 0; i < 20; ++i) {
        @autoreleasepool {
            id<MTLCommandBuffer> commandBuffer = [r->queue commandBuffer];
            id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
            encode_add(r, encoder);
            [encoder endEncoding];
            finish(commandBuffer);
            CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted);
        }
    }
    return NULL;
}

CASE(threads_share_a_queue) {
    rig r = rig_make();
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i)
        pthread_create(&threads[i], NULL, submit, &r);
    for (int i = 0; i < 4; ++i)
        pthread_join(threads[i], NULL);
    CHECK(floats(r.results)[3] == 103.0f);
    rig_free(&r);
}

CASE(kernel_fault_fails_the_command_buffer_alone) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    encode_add(&r, encoder);
    [encoder setBuffer:r.results offset:BYTES / 2 atIndex:2];
    [encoder dispatchThreadgroups:MTLSizeMake(COUNT / 32, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
    [encoder endEncoding];
    [commandBuffer addCompletedHandler:^(id<MTLCommandBuffer> done) {
      CHECK([done status] == MTLCommandBufferStatusError);
    }];
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusError);
    CHECK_ERROR([commandBuffer error], MTLCommandBufferErrorDomain, MTLCommandBufferErrorPageFault, @"add");
    commandBuffer = [r.queue commandBuffer];
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted);
    rig_free(&r);
}

#import "case.h"

/* Encodes what is wrong, then expects the command buffer to fail with this text and to have changed nothing. */
static void expect_misuse(NSString *text, void (^encode)(const rig *r, id<MTLComputeCommandEncoder> encoder)) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    @autoreleasepool {
        id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
        encode_add(&r, encoder);
        encode(&r, encoder);
        [encoder endEncoding];
    }
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusError);
    CHECK_ERROR([commandBuffer error], MTLCommandBufferErrorDomain, MTLCommandBufferErrorInternal, text);
    CHECK(floats(r.results)[5] == 0.0f);
    rig_free(&r);
}

static const MTLSize one = {1, 1, 1};

CASE(misuse_dispatch_without_pipeline) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    [encoder dispatchThreadgroups:one threadsPerThreadgroup:one];
    [encoder endEncoding];
    finish(commandBuffer);
    CHECK_ERROR([commandBuffer error], MTLCommandBufferErrorDomain, MTLCommandBufferErrorInternal,
                @"no compute pipeline state");
    rig_free(&r);
}

CASE(misuse_missing_binding) {
    expect_misuse(@"add: missing buffer binding at index 1 for second",
                  ^(const rig *r, id<MTLComputeCommandEncoder> e) {
                    (void)r;
                    [e setBuffer:nil offset:0 atIndex:1];
                    [e dispatchThreadgroups:one threadsPerThreadgroup:one];
                  });
}

CASE(misuse_offset_beyond_the_buffer) {
    expect_misuse(@"beyond the buffer", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      [e setBuffer:r->first offset:BYTES atIndex:0];
    });
}

CASE(misuse_buffer_index) {
    expect_misuse(@"index 31 is over 30", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      [e setBuffer:r->first offset:0 atIndex:31];
    });
}

CASE(misuse_too_many_bytes) {
    expect_misuse(@"setBytes takes 1 to 4096", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      (void)r;
      static const char bytes[4097];
      [e setBytes:bytes length:sizeof bytes atIndex:0];
    });
}

CASE(misuse_too_many_threads) {
    expect_misuse(@"1056 threads per threadgroup", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      (void)r;
      [e dispatchThreadgroups:one threadsPerThreadgroup:MTLSizeMake(33, 32, 1)];
    });
}

CASE(misuse_empty_grid) {
    expect_misuse(@"is 0", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      (void)r;
      [e dispatchThreadgroups:MTLSizeMake(1, 0, 1) threadsPerThreadgroup:one];
    });
}

CASE(misuse_threadgroup_memory) {
    expect_misuse(@"multiple of 16", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      (void)r;
      [e setThreadgroupMemoryLength:24 atIndex:0];
    });
}

CASE(misuse_barrier_scope) {
    expect_misuse(@"no such scope", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      (void)r;
      [e memoryBarrierWithScope:MTLBarrierScopeRenderTargets];
    });
}

CASE(misuse_after_the_end) {
    expect_misuse(@"the encoder has ended", ^(const rig *r, id<MTLComputeCommandEncoder> e) {
      (void)r;
      [e endEncoding]; /* and once more by the caller */
    });
}

CASE(misuse_encoder_never_ended) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    @autoreleasepool {
        encode_add(&r, [commandBuffer computeCommandEncoder]);
    }
    finish(commandBuffer);
    CHECK_ERROR([commandBuffer error], MTLCommandBufferErrorDomain, MTLCommandBufferErrorInternal,
                @"deallocated before -endEncoding");
    rig_free(&r);
}

CASE(misuse_commit_with_an_open_encoder) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    encode_add(&r, encoder);
    finish(commandBuffer);
    CHECK_ERROR([commandBuffer error], MTLCommandBufferErrorDomain, MTLCommandBufferErrorInternal, @"has not ended");
    CHECK(floats(r.results)[5] == 0.0f);
    CHECK_RAISES([encoder endEncoding], @"has ended");
    rig_free(&r);
}

CASE(misuse_two_encoders_at_once) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    CHECK([commandBuffer computeCommandEncoder] == nil);
    [encoder endEncoding];
    finish(commandBuffer);
    CHECK_ERROR([commandBuffer error], MTLCommandBufferErrorDomain, MTLCommandBufferErrorInternal, @"another encoder");
    rig_free(&r);
}

CASE(misuse_of_a_committed_command_buffer) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    CHECK_RAISES([commandBuffer waitUntilCompleted], @"not committed");
    finish(commandBuffer);
    CHECK_RAISES([commandBuffer commit], @"already committed");
    CHECK_RAISES([commandBuffer enqueue], @"already enqueued");
    CHECK_RAISES([commandBuffer computeCommandEncoder], @"is committed");
    CHECK_RAISES([commandBuffer addCompletedHandler:^(id<MTLCommandBuffer> done) {
                   (void)done;
                 }],
                 @"is committed");
    CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted);
    rig_free(&r);
}

CASE(bindings_of_every_kind) {
    rig r = rig_make();
    id<MTLCommandBuffer> commandBuffer = [r.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commandBuffer computeCommandEncoder];
    CHECK([encoder dispatchType] == MTLDispatchTypeSerial && [encoder device] == r.device);
    float bytes[1024];
    for (int i = 0; i < 1024; ++i)
        bytes[i] = (float)(1000 + i);
    const id<MTLBuffer> buffers[] = {r.first, r.results};
    const NSUInteger offsets[] = {0, 16 * sizeof(float)};
    [encoder setComputePipelineState:r.add];
    [encoder setBuffers:buffers offsets:offsets withRange:NSMakeRange(1, 2)];
    [encoder setBytes:bytes length:sizeof bytes atIndex:0];
    [encoder setBufferOffset:4 * sizeof(float) atIndex:1];
    [encoder useResource:r.first usage:MTLResourceUsageRead];
    [encoder pushDebugGroup:@"group"];
    [encoder dispatchThreadgroups:one threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
    [encoder popDebugGroup];
    bytes[3] = 0.0f; /* Metal has copied it */
    [encoder endEncoding];
    finish(commandBuffer);
    CHECK([commandBuffer status] == MTLCommandBufferStatusCompleted);
    CHECK(floats(r.results)[15] == 0.0f && floats(r.results)[48] == 0.0f);
    CHECK(floats(r.results)[16 + 3] == 1003.0f + 7.0f);
    rig_free(&r);
}

#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/commands.h"

static mfa_status_t open_encoder(mfai_metal_commands_t *commands) {
    commands->encoder = [commands->buffer computeCommandEncoder];
    if (commands->encoder == nil)
        return mfai_fail(MFA_ERROR_EXECUTION_FAILED, "the Metal command buffer gave no compute encoder");
    return MFA_SUCCESS;
}

static mfa_status_t open_buffer(mfai_metal_commands_t *commands) {
    commands->buffer = [commands->queue commandBuffer];
    if (commands->buffer == nil)
        return mfai_fail(MFA_ERROR_EXECUTION_FAILED, "the Metal command queue gave no command buffer");
    return open_encoder(commands);
}

mfa_status_t mfai_metal_commands_open(id<MTLCommandQueue> queue, mfai_metal_commands_t *commands) {
    *commands = (mfai_metal_commands_t){.queue = queue};
    return open_buffer(commands);
}

mfa_status_t mfai_metal_commands_join(id<MTLDevice> gpu, void *target, mfai_metal_commands_t *commands) {
    *commands = (mfai_metal_commands_t){0};
    id<NSObject> object = (__bridge id<NSObject>)target;
    if ([object respondsToSelector:@selector(dispatchThreadgroups:threadsPerThreadgroup:)]) {
        commands->encoder = (__bridge id<MTLComputeCommandEncoder>)target;
        MFAI_REQUIRE([commands->encoder device] == gpu,
                     "target is an encoder of another Metal device than the context");
        mfai_metal_commands_barrier(commands);
        return MFA_SUCCESS;
    }
    MFAI_REQUIRE([object respondsToSelector:@selector(computeCommandEncoder)],
                 "target is neither an id<MTLCommandBuffer> nor an id<MTLComputeCommandEncoder>");
    commands->buffer = (__bridge id<MTLCommandBuffer>)target;
    MFAI_REQUIRE([commands->buffer device] == gpu,
                 "target is a command buffer of another Metal device than the context");
    MFAI_REQUIRE([commands->buffer status] < MTLCommandBufferStatusCommitted,
                 "target is a command buffer that is already committed");
    MFAI_REQUIRE([commands->buffer retainedReferences],
                 "target is a command buffer that does not retain what it uses, as this call needs");
    return open_encoder(commands);
}

void mfai_metal_commands_barrier(const mfai_metal_commands_t *commands) {
    if ([commands->encoder dispatchType] == MTLDispatchTypeConcurrent)
        [commands->encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
}

static mfa_status_t fail(id<MTLCommandBuffer> buffer) {
    NSError *error = [buffer error];
    NSString *text = [error localizedDescription];
    return mfai_fail(MFA_ERROR_EXECUTION_FAILED, "the Metal device failed (%ld): %s", (long)[error code],
                     text != nil ? [text UTF8String] : "it does not say why");
}

mfa_status_t mfai_metal_commands_finish(mfai_metal_commands_t *commands) {
    if (commands->buffer != nil)
        [commands->encoder endEncoding];
    if (commands->queue == nil)
        return MFA_SUCCESS;
    [commands->buffer commit];
    [commands->buffer waitUntilCompleted];
    if ([commands->buffer status] != MTLCommandBufferStatusCompleted)
        return fail(commands->buffer);
    commands->seconds += [commands->buffer GPUEndTime] - [commands->buffer GPUStartTime];
    return MFA_SUCCESS;
}

mfa_status_t mfai_metal_commands_renew(mfai_metal_commands_t *commands) {
    MFAI_TRY(mfai_metal_commands_finish(commands));
    return open_buffer(commands);
}
#endif

#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/workspaces.h"

#include <inttypes.h>

#import "metal/ownership.h"

void mfai_metal_workspaces_open(mfai_metal_workspaces_t *workspaces) {
    pthread_mutex_init(&workspaces->lock, NULL);
    workspaces->idle = [[NSMutableArray alloc] init];
}

void mfai_metal_workspaces_close(mfai_metal_workspaces_t *workspaces) {
    MFAI_RELEASE(workspaces->idle);
    pthread_mutex_destroy(&workspaces->lock);
}

void mfai_metal_workspaces_trim(mfai_metal_workspaces_t *workspaces) {
    pthread_mutex_lock(&workspaces->lock);
    [workspaces->idle removeAllObjects];
    pthread_mutex_unlock(&workspaces->lock);
}

mfa_status_t mfai_metal_workspace_make(id<MTLDevice> gpu, uint64_t size, id<MTLBuffer> __strong *workspace) {
    const uint64_t most = [gpu maxBufferLength];
    if (size > most)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION,
                         "the workspace takes %" PRIu64 " bytes, and a buffer of the Metal device at most %" PRIu64,
                         size, most);
    *workspace = [gpu newBufferWithLength:(NSUInteger)size options:MTLResourceStorageModePrivate];
    if (*workspace == nil)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a workspace of %" PRIu64 " bytes on the device",
                         size);
    return MFA_SUCCESS;
}

/* The smallest idle one that is large enough, retained; nil if there is none. */
static id<MTLBuffer> take_idle(mfai_metal_workspaces_t *workspaces, uint64_t size) {
    id<MTLBuffer> best = nil;
    pthread_mutex_lock(&workspaces->lock);
    for (id<MTLBuffer> candidate in workspaces->idle)
        if ([candidate length] >= size && (best == nil || [candidate length] < [best length]))
            best = candidate;
    best = MFAI_RETAIN(best);
    if (best != nil)
        [workspaces->idle removeObjectIdenticalTo:best];
    else if ([workspaces->idle count] > 0)
        [workspaces->idle removeLastObject]; /* too small: what replaces it comes back here */
    pthread_mutex_unlock(&workspaces->lock);
    return best;
}

mfa_status_t mfai_metal_workspaces_take(mfai_metal_workspaces_t *workspaces, id<MTLDevice> gpu, uint64_t size,
                                        id<MTLBuffer> __strong *workspace) {
    *workspace = take_idle(workspaces, size);
    return *workspace != nil ? MFA_SUCCESS : mfai_metal_workspace_make(gpu, size, workspace);
}

void mfai_metal_workspaces_give(mfai_metal_workspaces_t *workspaces, id<MTLBuffer> workspace) {
    if (workspace == nil)
        return;
    pthread_mutex_lock(&workspaces->lock);
    [workspaces->idle addObject:workspace];
    pthread_mutex_unlock(&workspaces->lock);
    MFAI_RELEASE(workspace);
}
#endif

/* Scratch memory on the device, kept between calls. */
#ifndef MFA_METAL_WORKSPACES_H
#define MFA_METAL_WORKSPACES_H

#import <Metal/Metal.h>
#include <pthread.h>

#include "core/status.h"

typedef struct {
    pthread_mutex_t lock;
    NSMutableArray *idle;
} mfai_metal_workspaces_t;

void mfai_metal_workspaces_open(mfai_metal_workspaces_t *workspaces);
void mfai_metal_workspaces_close(mfai_metal_workspaces_t *workspaces);
void mfai_metal_workspaces_trim(mfai_metal_workspaces_t *workspaces);

/* A new buffer that the CPU need not reach, retained. */
mfa_status_t mfai_metal_workspace_make(id<MTLDevice> gpu, uint64_t size, id<MTLBuffer> __strong *workspace);

/* A new buffer as mfai_metal_workspace_make has it, or an idle one that is large enough, whose contents are what an
   earlier call left. */
mfa_status_t mfai_metal_workspaces_take(mfai_metal_workspaces_t *workspaces, id<MTLDevice> gpu, uint64_t size,
                                        id<MTLBuffer> __strong *workspace);

/* Gives back what was taken, once the device is done with it. nil is allowed. */
void mfai_metal_workspaces_give(mfai_metal_workspaces_t *workspaces, id<MTLBuffer> workspace);

#endif

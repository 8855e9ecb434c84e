/* Where a call is encoded: a command buffer of its own, or what the caller gave. */
#ifndef MFA_METAL_COMMANDS_H
#define MFA_METAL_COMMANDS_H

#import <Metal/Metal.h>

#include "core/status.h"

typedef struct {
    id<MTLCommandQueue> queue;            /* of command buffers of its own; nil: the caller's is encoded into */
    id<MTLCommandBuffer> buffer;          /* nil if the caller gave an encoder */
    id<MTLComputeCommandEncoder> encoder; /* open */
    double seconds;                       /* that the device took for its own command buffers so far */
} mfai_metal_commands_t;

/* Opens an encoder on a new command buffer. The caller has an autorelease pool around all of this. */
mfa_status_t mfai_metal_commands_open(id<MTLCommandQueue> queue, mfai_metal_commands_t *commands);

/* Checks what the caller gave, an id<MTLCommandBuffer> or an open id<MTLComputeCommandEncoder>, and opens an encoder if
   need be. */
mfa_status_t mfai_metal_commands_join(id<MTLDevice> gpu, void *target, mfai_metal_commands_t *commands);

/* Lets dispatches encoded from here on see what those before it wrote. */
void mfai_metal_commands_barrier(const mfai_metal_commands_t *commands);

/* Runs a command buffer of its own, waits for it, and opens an encoder on another, with nothing bound. On failure there
   is nothing to finish. */
mfa_status_t mfai_metal_commands_renew(mfai_metal_commands_t *commands);

/* Ends the encoder unless it is the caller's; runs a command buffer of its own and waits for it. */
mfa_status_t mfai_metal_commands_finish(mfai_metal_commands_t *commands);

#endif

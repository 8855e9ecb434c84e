/* Where a call is encoded: a command buffer of its own, or what the caller gave. */
#ifndef MFA_METAL_COMMANDS_H
#define MFA_METAL_COMMANDS_H

#import <Metal/Metal.h>

#include "core/status.h"

typedef struct {
    id<MTLComputeCommandEncoder> encoder; /* open */
    id<MTLCommandBuffer> buffer;          /* nil if the caller gave an encoder */
    bool is_own_buffer;
} mfai_metal_commands_t;

/* Opens an encoder on a new command buffer. The caller has an autorelease pool around all of this. */
mfa_status_t mfai_metal_commands_open(id<MTLCommandQueue> queue, mfai_metal_commands_t *commands);

/* Checks what the caller gave, an id<MTLCommandBuffer> or an open id<MTLComputeCommandEncoder>, and opens an encoder if
   need be. */
mfa_status_t mfai_metal_commands_join(id<MTLDevice> gpu, void *target, mfai_metal_commands_t *commands);

/* Lets dispatches encoded from here on see what those before it wrote. */
void mfai_metal_commands_barrier(const mfai_metal_commands_t *commands);

/* Ends the encoder unless it is the caller's; runs a command buffer of its own and waits for it. */
mfa_status_t mfai_metal_commands_finish(const mfai_metal_commands_t *commands, double *seconds);

#endif

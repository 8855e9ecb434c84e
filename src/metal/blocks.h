/* The part of a call that makes what kernels read of blocks: src/metal/blocks.m. */
#ifndef MFA_METAL_BLOCKS_H
#define MFA_METAL_BLOCKS_H

#import "metal/call.h"

/* Adds scratch memory for it and the dispatch that fills it, for which those that read it have to wait; nothing for a
   problem without blocks. */
mfa_status_t mfai_metal_add_blocks(const mfai_problem_t *problem, mfai_metal_call_t *call);

#endif

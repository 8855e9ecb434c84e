/* Kernels compiled for the device: one for each specialisation that a call has asked for. */
#ifndef MFA_METAL_PIPELINES_H
#define MFA_METAL_PIPELINES_H

#import <Metal/Metal.h>
#include <pthread.h>

#include "core/status.h"
#include "metal/kernel.h"

typedef struct {
    pthread_mutex_t lock; /* of both dictionaries; held while compiling, so that nothing is compiled twice */
    NSMutableDictionary *libraries, *pipelines;
} mfai_metal_pipelines_t;

void mfai_metal_pipelines_open(mfai_metal_pipelines_t *pipelines);
void mfai_metal_pipelines_close(mfai_metal_pipelines_t *pipelines);

/* The pipeline, which lives as long as the cache. Fails with the compiler's message, or if the device cannot run it
   with `threads` in a threadgroup. */
mfa_status_t mfai_metal_pipelines_find(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu,
                                       const mfai_metal_kernel_t *kernel, unsigned threads,
                                       id<MTLComputePipelineState> __strong *pipeline);

/* Goes only as far as Metal's own compiler does, without the device's: so on any device. The function is autoreleased.
   */
mfa_status_t mfai_metal_pipelines_specialise(mfai_metal_pipelines_t *pipelines, id<MTLDevice> gpu,
                                             const mfai_metal_kernel_t *kernel, id<MTLFunction> *function);

#endif

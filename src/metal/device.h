/* The Metal device that a context works on, with its limits. */
#ifndef MFA_METAL_DEVICE_H
#define MFA_METAL_DEVICE_H

#import <Metal/Metal.h>

#include "core/backend.h"
#import "metal/pipelines.h"
#import "metal/workspaces.h"

typedef struct mfai_metal_device {
    id<MTLDevice> gpu;
    id<MTLCommandQueue> queue;
    char name[96];
    int family;         /* n of MTLGPUFamilyApple<n>, the highest that the device supports */
    uint64_t most_work; /* multiplications after which work is cut into another dispatch and command buffer */
    mfai_metal_pipelines_t pipelines;
    mfai_metal_workspaces_t workspaces;
} mfai_metal_device_t;

/* Whether device 0 can run the kernels; if not, *reason (when not NULL) becomes a static string. */
bool mfai_metal_is_available(const char **reason);

mfa_status_t mfai_metal_device_open(const mfa_context_options_t *options, void **device);
void mfai_metal_device_close(void *device);
void mfai_metal_device_describe(void *device, mfa_context_info_t *info);
void mfai_metal_device_trim(void *device);

#endif

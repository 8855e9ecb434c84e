#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#import "metal/device.h"

#include <stdio.h>
#include <stdlib.h>

#import "metal/ownership.h"
#include "metal/process.h"

enum {
    LEAST_FAMILY = 7, /* Apple7, the M1: the first with simdgroup_matrix */
    MOST_FAMILY = 30, /* those to come support the families before them */
};

/* A tenth of a second or two for the slowest device. The system ends a command buffer that keeps the screen waiting,
   after some seconds or sooner, and it tells one command buffer from another, not the dispatches of one. */
static const uint64_t most_work = 1ull << 36;

static int apple_family(id<MTLDevice> gpu) {
    int family = 0;
    for (int n = 1; n <= MOST_FAMILY; ++n)
        if ([gpu supportsFamily:(MTLGPUFamily)(MTLGPUFamilyApple1 + n - 1)])
            family = n;
    return family;
}

/* NULL if the device can run the kernels. */
static const char *why_not(id<MTLDevice> gpu) {
    bool is_14 = false; /* asked first: all that follows counts on its API */
    if (@available(macOS 14.0, *))
        is_14 = true;
    if (!is_14)
        return "Metal 3.1 is needed, which came with macOS 14";
    if (gpu == nil)
        return "there is no Metal device";
    if (apple_family(gpu) < LEAST_FAMILY)
        return "the Metal device has no simdgroup_matrix, which came with GPU family Apple7 (M1)";
    return NULL;
}

/* Retained; nil if there is none of this number. */
static id<MTLDevice> find_device(int32_t number) {
    id<MTLDevice> gpu = number == 0 ? MTLCreateSystemDefaultDevice() : nil;
#if !TARGET_OS_IPHONE /* there it is the only one, and there is no list before iOS 18 */
    if (gpu != nil)
        return gpu;
    /* There may be no default even so, as where CoreGraphics was dropped when a program was linked. */
    NSArray *all = MTLCopyAllDevices();
    gpu = (NSUInteger)number < [all count] ? MFAI_RETAIN([all objectAtIndex:(NSUInteger)number]) : nil;
    MFAI_RELEASE(all);
#endif
    return gpu;
}

bool mfai_metal_is_available(const char **reason) {
    const char *why = MFAI_METAL_FORKED;
    if (!mfai_metal_is_forked()) {
        @autoreleasepool {
            id<MTLDevice> gpu = find_device(0);
            why = why_not(gpu);
            MFAI_RELEASE(gpu);
        }
    }
    if (reason != NULL)
        *reason = why;
    return why == NULL;
}

static mfa_status_t fill_in(int32_t number, mfai_metal_device_t *device) {
    device->gpu = find_device(number);
    const char *why = why_not(device->gpu);
    if (why != NULL)
        return mfai_fail(MFA_ERROR_DEVICE_NOT_SUPPORTED, "Metal device %d: %s", number, why);
    snprintf(device->name, sizeof device->name, "%s", [[device->gpu name] UTF8String]);
    device->family = apple_family(device->gpu);
    device->most_work = most_work;
    device->queue = [device->gpu newCommandQueue];
    if (device->queue == nil)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "Metal device %d gave no command queue", number);
    mfai_metal_pipelines_open(&device->pipelines);
    mfai_metal_workspaces_open(&device->workspaces);
    return MFA_SUCCESS;
}

mfa_status_t mfai_metal_device_open(const mfa_context_options_t *options, void **handle) {
    @autoreleasepool {
        mfai_metal_device_t *device = calloc(1, sizeof *device);
        if (device == NULL)
            return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a Metal device");
        const mfa_status_t status = fill_in(options->device, device);
        if (status != MFA_SUCCESS) {
            MFAI_RELEASE(device->queue);
            MFAI_RELEASE(device->gpu);
            free(device);
            return status;
        }
        *handle = device;
        return MFA_SUCCESS;
    }
}

void mfai_metal_device_close(void *handle) {
    mfai_metal_device_t *device = handle;
    if (mfai_metal_is_forked())
        return;
    @autoreleasepool {
        mfai_metal_workspaces_close(&device->workspaces);
        mfai_metal_pipelines_close(&device->pipelines);
        MFAI_RELEASE(device->queue);
        MFAI_RELEASE(device->gpu);
    }
    free(device);
}

void mfai_metal_device_describe(void *handle, mfa_context_info_t *info) {
    const mfai_metal_device_t *device = handle;
    info->num_threads = 1; /* the caller's, which waits */
    snprintf(info->backend_name, sizeof info->backend_name, "metal");
    snprintf(info->isa_name, sizeof info->isa_name, "apple%d", device->family);
    snprintf(info->device_name, sizeof info->device_name, "%s", device->name);
}

void mfai_metal_device_trim(void *handle) {
    mfai_metal_device_t *device = handle;
    if (mfai_metal_is_forked())
        return;
    @autoreleasepool {
        mfai_metal_workspaces_trim(&device->workspaces);
    }
}
#endif

/* The Metal backend: its entries. */
#import "metal/backward.h"
#import "metal/device.h"
#import "metal/forward.h"
#import "metal/memory.h"

const mfai_backend_t mfai_metal_backend = {
    .name = "metal",
    .id = MFA_BACKEND_METAL,
    .is_available = mfai_metal_is_available,
    .open = mfai_metal_device_open,
    .close = mfai_metal_device_close,
    .describe = mfai_metal_device_describe,
    .trim = mfai_metal_device_trim,
    .memory_open = mfai_metal_memory_open,
    .memory_close = mfai_metal_memory_close,
    .memory_adopt = mfai_metal_memory_adopt,
    .forward_plan = mfai_metal_forward_plan,
    .forward = mfai_metal_forward,
    .backward_plan = mfai_metal_backward_plan,
    .backward = mfai_metal_backward,
    .forward_encode = mfai_metal_forward_encode,
    .backward_encode = mfai_metal_backward_encode,
};

/* The Metal backend: its entries. */
#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#include "core/backend.h"
#include "core/quantization.h"
#import "metal/backward.h"
#import "metal/device.h"
#import "metal/forward.h"
#import "metal/memory.h"

static mfa_status_t make(const mfai_metal_device_t *device, const mfai_problem_t *problem, mfai_metal_call_t *call) {
    return problem->pass == MFAI_BACKWARD ? mfai_metal_backward_make(device, problem, call)
                                          : mfai_metal_forward_make(device, problem, call);
}

static mfa_status_t plan(void *device, const mfai_problem_t *problem, mfa_plan_t *out) {
    mfai_metal_call_t call;
    MFAI_TRY(make(device, problem, &call));
    mfai_metal_call_describe(device, &call, out);
    return MFA_SUCCESS;
}

static mfa_status_t run(void *device, const mfai_problem_t *problem, double *seconds) {
    mfai_metal_call_t call;
    MFAI_TRY(make(device, problem, &call));
    MFAI_TRY(mfai_quantization_check(problem));
    return mfai_metal_call_run(device, &call, seconds);
}

static mfa_status_t encode(void *device, const mfai_problem_t *problem, void *target) {
    mfai_metal_call_t call;
    MFAI_TRY(make(device, problem, &call)); /* scales may be written before it runs: they are not looked at */
    return mfai_metal_call_encode(device, &call, target);
}

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
    .plan = plan,
    .run = run,
    .encode = encode,
};
#endif

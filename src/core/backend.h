/* What a backend offers to the core. registry.c is the only file that names backends. */
#ifndef MFA_CORE_BACKEND_H
#define MFA_CORE_BACKEND_H

#include "core/quantize.h"

typedef struct mfai_memory {
    void *contents; /* address for the CPU; NULL if it cannot reach the memory */
    char *base;     /* where views count from: contents, or an address with MFAI_DEVICE_ADDRESS */
    void *handle;   /* the backend's own */
    bool zero_copy;
} mfai_memory_t;

typedef struct mfai_backend {
    const char *name;
    int32_t id; /* MFA_BACKEND_... */

    /* Whether a device is there; if not, *reason (when not NULL) becomes a static string. */
    bool (*is_available)(const char **reason);

    /* Opens the device. The environment fills in what `options` left at auto. */
    mfa_status_t (*open)(const mfa_context_options_t *options, void **device);
    void (*close)(void *device);
    void (*describe)(void *device, mfa_context_info_t *info);
    void (*trim)(void *device);

    /* Zeroed memory of the backend's if data is NULL, else the caller's memory. */
    mfa_status_t (*memory_open)(void *device, void *data, size_t size, mfai_memory_t *memory);
    void (*memory_close)(void *device, mfai_memory_t *memory);

    /* The device's own kind of buffer, an id<MTLBuffer>; NULL: there is none. */
    mfa_status_t (*memory_adopt)(void *device, void *object, size_t *size, mfai_memory_t *memory);

    /* Fills in the plan, or refuses with MFA_ERROR_UNSUPPORTED and a message. */
    mfa_status_t (*plan)(void *device, const mfai_problem_t *problem, mfa_plan_t *plan);

    /* Runs the problem's pass and waits for it. */
    mfa_status_t (*run)(void *device, const mfai_problem_t *problem, double *seconds);

    /* Likewise, but into a command buffer or encoder of the caller's, who runs it later; NULL: there is none. */
    mfa_status_t (*encode)(void *device, const mfai_problem_t *problem, void *target);

    /* Quantises a tensor; NULL: that is left to the CPU backend. */
    mfa_status_t (*quantise)(void *device, const mfai_quantize_t *call);
} mfai_backend_t;

#endif

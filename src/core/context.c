#include "core/context.h"

#include <stdlib.h>

#include "core/entry.h"
#include "core/registry.h"
#include "core/versioned.h"

void mfai_context_retain(mfa_context_t context) { __atomic_add_fetch(&context->references, 1, __ATOMIC_RELAXED); }

void mfai_context_release(mfa_context_t context) {
    if (__atomic_sub_fetch(&context->references, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    if (context->fallback_device)
        context->fallback->close(context->fallback_device);
    if (context->device)
        context->backend->close(context->device);
    free(context);
}

static mfa_status_t open_devices(const mfa_context_options_t *options, mfa_context_t context) {
    MFAI_TRY(context->backend->open(options, &context->device));
    if ((options->flags & MFA_CONTEXT_ALLOW_CPU_FALLBACK) && context->backend->id != MFA_BACKEND_CPU) {
        context->fallback = mfai_registry_find(MFA_BACKEND_CPU);
        MFAI_TRY(context->fallback->open(options, &context->fallback_device));
    }
    return MFA_SUCCESS;
}

mfa_status_t mfa_create_context_with_options(const mfa_context_options_t *caller, mfa_context_t *handle) {
    MFAI_ENTRY;
    MFAI_REQUIRE(handle != NULL, "context is NULL, expected an address to write the handle to");
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    if (caller != NULL)
        MFAI_TRY(mfai_struct_import("options", caller, MFAI_CONTEXT_OPTIONS_FIRST_SIZE, sizeof options, &options));
    MFAI_REQUIRE((options.flags & ~MFA_CONTEXT_ALLOW_CPU_FALLBACK) == 0, "options.flags is 0x%x, expected 0 or 0x%x",
                 options.flags, MFA_CONTEXT_ALLOW_CPU_FALLBACK);
    MFAI_REQUIRE(options.device >= 0, "options.device is %d, expected 0 or more", options.device);
    MFAI_REQUIRE(options.num_threads >= 0, "options.num_threads is %d, expected 0 (auto) or more", options.num_threads);
    MFAI_REQUIRE(options.cpu_isa >= MFA_CPU_ISA_AUTO && options.cpu_isa <= MFA_CPU_ISA_NEON,
                 "options.cpu_isa is %d, not an MFA_CPU_ISA_...", options.cpu_isa);
    const mfai_backend_t *backend = NULL;
    MFAI_TRY(mfai_registry_choose(options.backend, &backend));

    mfa_context_t context = calloc(1, sizeof *context);
    if (context == NULL)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a context");
    context->references = 1;
    context->options = options;
    context->backend = backend;
    mfa_status_t status = open_devices(&options, context);
    if (status != MFA_SUCCESS) {
        mfai_context_release(context);
        return status;
    }
    *handle = context;
    return MFA_SUCCESS;
}

mfa_status_t mfa_create_context(mfa_context_t *context) { return mfa_create_context_with_options(NULL, context); }

void mfa_destroy_context(mfa_context_t context) {
    MFAI_ENTRY;
    if (context != NULL)
        mfai_context_release(context);
}

mfa_status_t mfa_context_describe(mfa_context_t context, mfa_context_info_t *caller) {
    MFAI_ENTRY;
    MFAI_REQUIRE(context != NULL, "context is NULL");
    mfa_context_info_t info = MFA_CONTEXT_INFO_INIT;
    info.backend = context->backend->id;
    info.flags = context->options.flags;
    context->backend->describe(context->device, &info);
    return mfai_struct_export("info", caller, MFAI_CONTEXT_INFO_FIRST_SIZE, sizeof info, &info);
}

mfa_status_t mfa_context_trim(mfa_context_t context) {
    MFAI_ENTRY;
    MFAI_REQUIRE(context != NULL, "context is NULL");
    context->backend->trim(context->device);
    if (context->fallback_device)
        context->fallback->trim(context->fallback_device);
    return MFA_SUCCESS;
}

void mfa_get_version(int *major, int *minor, int *patch) {
    if (major)
        *major = MFA_VERSION_MAJOR;
    if (minor)
        *minor = MFA_VERSION_MINOR;
    if (patch)
        *patch = MFA_VERSION_PATCH;
}

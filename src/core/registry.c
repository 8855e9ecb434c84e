#include "core/registry.h"

#include <stdlib.h>
#include <string.h>

#include "core/entry.h"

extern const mfai_backend_t mfai_metal_backend;
extern const mfai_backend_t mfai_cpu_backend;

/* In order of preference. */
static const mfai_backend_t *const backends[] = {&mfai_metal_backend, &mfai_cpu_backend};
enum { BACKEND_COUNT = sizeof backends / sizeof *backends };

const mfai_backend_t *mfai_registry_find(int32_t id) {
    for (int i = 0; i < BACKEND_COUNT; ++i)
        if (backends[i]->id == id)
            return backends[i];
    return NULL;
}

static mfa_status_t use(const mfai_backend_t *backend, const mfai_backend_t **chosen) {
    const char *reason = "";
    if (!backend->is_available(&reason))
        return mfai_fail(MFA_ERROR_DEVICE_NOT_SUPPORTED, "backend \"%s\" is not available: %s", backend->name, reason);
    *chosen = backend;
    return MFA_SUCCESS;
}

mfa_status_t mfai_registry_choose(int32_t id, const mfai_backend_t **backend) {
    if (id != MFA_BACKEND_AUTO) {
        const mfai_backend_t *named = mfai_registry_find(id);
        MFAI_REQUIRE(named != NULL, "options.backend is %d, not an MFA_BACKEND_...", id);
        return use(named, backend);
    }
    const char *wanted = getenv("MFA_BACKEND");
    if (wanted == NULL || *wanted == '\0' || strcmp(wanted, "auto") == 0) {
        for (int i = 0; i < BACKEND_COUNT; ++i)
            if (backends[i]->is_available(NULL))
                return use(backends[i], backend);
        return mfai_fail(MFA_ERROR_DEVICE_NOT_SUPPORTED, "no backend is available");
    }
    for (int i = 0; i < BACKEND_COUNT; ++i)
        if (strcmp(wanted, backends[i]->name) == 0)
            return use(backends[i], backend);
    return mfai_fail(MFA_ERROR_INVALID_ARGS, "environment variable MFA_BACKEND is \"%s\", expected auto, cpu or metal",
                     wanted);
}

bool mfa_is_device_supported(void) {
    MFAI_ENTRY;
    return mfai_metal_backend.is_available(NULL);
}

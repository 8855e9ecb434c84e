/* The Metal backend where Metal is absent: it says so. */
#if !defined(__APPLE__) || !defined(SWIFT_PACKAGE)
#include "core/backend.h"

static bool is_available(const char **reason) {
    if (reason)
        *reason = "this build of mfa has no Metal support";
    return false;
}

/* The registry opens a backend only after is_available said yes, so the other entries are never called. */
const mfai_backend_t mfai_metal_backend = {.name = "metal", .id = MFA_BACKEND_METAL, .is_available = is_available};
#endif

#include "core/versioned.h"

#include <string.h>

enum { MOST_BYTES = 65536 }; /* more is a struct that was never initialised */

static mfa_status_t caller_size(const char *name, const void *caller, size_t least, uint32_t *caller_bytes) {
    MFAI_REQUIRE(caller != NULL, "%s is NULL", name);
    memcpy(caller_bytes, caller, sizeof *caller_bytes);
    MFAI_REQUIRE(*caller_bytes <= MOST_BYTES, "%s.struct_size is %u, expected at most %d (start from its MFA_..._INIT)",
                 name, *caller_bytes, MOST_BYTES);
    MFAI_REQUIRE(*caller_bytes >= least, "%s.struct_size is %u, expected at least %zu (start from its MFA_..._INIT)",
                 name, *caller_bytes, least);
    return MFA_SUCCESS;
}

mfa_status_t mfai_struct_import(const char *name, const void *caller, size_t least, size_t size, void *known) {
    uint32_t bytes = 0;
    MFAI_TRY(caller_size(name, caller, least, &bytes));
    for (size_t i = size; i < bytes; ++i)
        if (((const unsigned char *)caller)[i] != 0)
            return mfai_fail(
                MFA_ERROR_UNSUPPORTED,
                "%s has struct_size %u and uses a field at byte %zu; this library (%d.%d.%d) knows %zu bytes", name,
                bytes, i, MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH, size);
    memcpy(known, caller, bytes < size ? bytes : size);
    return MFA_SUCCESS;
}

mfa_status_t mfai_struct_export(const char *name, void *caller, size_t least, size_t size, const void *known) {
    uint32_t bytes = 0;
    MFAI_TRY(caller_size(name, caller, least, &bytes));
    memcpy(caller, known, bytes < size ? bytes : size);
    memcpy(caller, &bytes, sizeof bytes);
    return MFA_SUCCESS;
}

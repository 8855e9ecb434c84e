/* Status propagation. A failure is described once, where it is found, and passed up unchanged. */
#ifndef MFA_CORE_STATUS_H
#define MFA_CORE_STATUS_H

#include "mfa.h"

/* Records the detail for mfa_last_error_message and returns `status`. */
mfa_status_t mfai_fail(mfa_status_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define MFAI_TRY(call)                    \
    do {                                  \
        mfa_status_t try_status = (call); \
        if (try_status != MFA_SUCCESS)    \
            return try_status;            \
    } while (0)

#define MFAI_REQUIRE(condition, ...)                               \
    do {                                                           \
        if (!(condition))                                          \
            return mfai_fail(MFA_ERROR_INVALID_ARGS, __VA_ARGS__); \
    } while (0)

#endif

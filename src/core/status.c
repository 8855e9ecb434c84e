#include "core/status.h"

#include <stdarg.h>

#include "core/record.h"

mfa_status_t mfai_fail(mfa_status_t status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    mfai_record_failure(format, arguments);
    va_end(arguments);
    return status;
}

const char *mfa_last_error_message(mfa_context_t context) {
    (void)context;
    return mfai_record()->message;
}

const char *mfa_error_string(mfa_status_t status) {
    switch (status) {
    case MFA_SUCCESS:
        return "success";
    case MFA_ERROR_INVALID_ARGS:
        return "invalid arguments";
    case MFA_ERROR_MEMORY_ALLOCATION:
        return "memory allocation failed";
    case MFA_ERROR_DEVICE_NOT_SUPPORTED:
        return "device not supported";
    case MFA_ERROR_KERNEL_COMPILATION:
        return "kernel compilation failed";
    case MFA_ERROR_EXECUTION_FAILED:
        return "execution failed";
    case MFA_ERROR_UNSUPPORTED:
        return "unsupported";
    default:
        return "unknown status";
    }
}

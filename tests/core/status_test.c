#include "core/status.h"

#include "check.h"

int main(void) {
    CHECK(mfa_last_error_message(NULL)[0] == '\0');
    for (mfa_status_t status = 0; status <= MFA_ERROR_UNSUPPORTED; ++status)
        CHECK(strcmp(mfa_error_string(status), "unknown status") != 0);
    CHECK(strcmp(mfa_error_string(7), "unknown status") == 0);
    CHECK(strcmp(mfa_error_string(-1), "unknown status") == 0);
    CHECK(mfa_error_string(1) == mfa_error_string(1));

    CHECK_FAILS(mfai_fail(MFA_ERROR_EXECUTION_FAILED, "item %d of %s", 3, "list"), MFA_ERROR_EXECUTION_FAILED,
                "item 3 of list");
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    CHECK_FAILS(mfai_fail(MFA_ERROR_INVALID_ARGS, "%s", big), MFA_ERROR_INVALID_ARGS, "xxx");

    int major = -1, minor = -1, patch = -1;
    mfa_get_version(&major, NULL, NULL);
    mfa_get_version(NULL, &minor, &patch);
    CHECK(major == MFA_VERSION_MAJOR && minor == MFA_VERSION_MINOR && patch == MFA_VERSION_PATCH);
    CHECK(mfa_get_gpu_latency(NULL) == 0);
    return check_report();
}

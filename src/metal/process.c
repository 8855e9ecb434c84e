#include "metal/process.h"

#include <stdatomic.h>
#include <sys/types.h>
#include <unistd.h>

bool mfai_metal_is_forked(void) {
    static _Atomic pid_t user; /* 0: none yet */
    const pid_t self = getpid();
    pid_t first = 0;
    return !atomic_compare_exchange_strong(&user, &first, self) && first != self;
}

mfa_status_t mfai_metal_check_process(void) {
    return mfai_metal_is_forked() ? mfai_fail(MFA_ERROR_UNSUPPORTED, MFAI_METAL_FORKED) : MFA_SUCCESS;
}

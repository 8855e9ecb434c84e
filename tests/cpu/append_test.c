/* New rows for the cache, for every instance of the kernels that this machine has. */
#include "appending.h"

static mfa_context_t open_context(int32_t isa, int32_t threads) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_CPU;
    options.cpu_isa = isa;
    options.num_threads = threads;
    mfa_context_t context = NULL;
    return mfa_create_context_with_options(&options, &context) == MFA_SUCCESS ? context : NULL;
}

int main(void) {
    for (int32_t isa = MFA_CPU_ISA_SCALAR; isa <= MFA_CPU_ISA_NEON; ++isa) {
        mfa_context_t alone = open_context(isa, 1), several = open_context(isa, 3);
        if (alone != NULL)
            test_cases(alone, several, isa == MFA_CPU_ISA_AVX2 ? 6 : 3);
        if (isa == MFA_CPU_ISA_SCALAR)
            test_errors(alone);
        mfa_destroy_context(alone);
        mfa_destroy_context(several);
    }
    return check_report();
}

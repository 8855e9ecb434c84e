/* A context: one open device of the chosen backend and, if asked for, the CPU to fall back to. */
#ifndef MFA_CORE_CONTEXT_H
#define MFA_CORE_CONTEXT_H

#include "core/backend.h"

struct mfa_context {
    int references;                /* the handle's and one for each buffer; atomic */
    mfa_context_options_t options; /* that it was made with */
    const mfai_backend_t *backend;
    void *device;
    const mfai_backend_t *fallback; /* NULL: none */
    void *fallback_device;
};

void mfai_context_retain(mfa_context_t context);
void mfai_context_release(mfa_context_t context);

#endif

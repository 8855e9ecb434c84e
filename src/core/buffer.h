#ifndef MFA_CORE_BUFFER_H
#define MFA_CORE_BUFFER_H

#include "core/backend.h"

mfa_context_t mfai_buffer_context(mfa_buffer_t buffer);

/* The backend's own handle, for backends whose kernels do not work on plain addresses. */
void *mfai_buffer_handle(mfa_buffer_t buffer);

#endif

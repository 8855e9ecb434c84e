#ifndef MFA_CORE_BUFFER_H
#define MFA_CORE_BUFFER_H

#include "core/backend.h"

mfa_context_t mfai_buffer_context(mfa_buffer_t buffer);
const mfai_memory_t *mfai_buffer_memory(mfa_buffer_t buffer);

#endif

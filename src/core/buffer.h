#ifndef MFA_CORE_BUFFER_H
#define MFA_CORE_BUFFER_H

#include "core/backend.h"

mfa_context_t mfai_buffer_context(mfa_buffer_t buffer);
const mfai_memory_t *mfai_buffer_memory(mfa_buffer_t buffer);

/* What the codes in it stand for; NULL if it does not remember that. */
const mfa_quantization_params_t *mfai_buffer_params(mfa_buffer_t buffer);
void mfai_buffer_set_params(mfa_buffer_t buffer, const mfa_quantization_params_t *params);

#endif

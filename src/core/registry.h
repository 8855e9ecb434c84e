#ifndef MFA_CORE_REGISTRY_H
#define MFA_CORE_REGISTRY_H

#include "core/backend.h"

/* The backend for options.backend; MFA_BACKEND decides where that is auto, else the first that is available. */
mfa_status_t mfai_registry_choose(int32_t id, const mfai_backend_t **backend);

const mfai_backend_t *mfai_registry_find(int32_t id);

#endif

/* What every backend refuses. */
#ifndef MFA_CORE_LIMITS_H
#define MFA_CORE_LIMITS_H

#include <inttypes.h>

#include "core/problem.h"

enum { MFAI_MOST_HEAD_DIM = 1 << 20 };

/* Beyond this, sizes of scratch memory would need care with overflow. */
static inline mfa_status_t mfai_check_head_dims(const char *backend, const mfai_problem_t *p) {
    if (p->head_dim <= MFAI_MOST_HEAD_DIM && p->value_dim <= MFAI_MOST_HEAD_DIM)
        return MFA_SUCCESS;
    return mfai_fail(MFA_ERROR_UNSUPPORTED,
                     "head_dim is %" PRId64 " (query) and %" PRId64 " (value); the %s backend takes up to %d",
                     p->head_dim, p->value_dim, backend, MFAI_MOST_HEAD_DIM);
}

#endif

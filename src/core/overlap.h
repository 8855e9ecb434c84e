#ifndef MFA_CORE_OVERLAP_H
#define MFA_CORE_OVERLAP_H

#include "core/tensor.h"

/* Whether two views share a byte. Exact for interleaved views such as packed q, k and v; in a case too tangled to
   decide in bounded time the answer is true. */
bool mfai_views_overlap(const mfai_view_t *a, const mfai_view_t *b);

#endif

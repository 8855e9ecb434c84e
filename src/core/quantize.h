/* One tensor that is to be quantised, checked. Backends read this and nothing else. */
#ifndef MFA_CORE_QUANTIZE_H
#define MFA_CORE_QUANTIZE_H

#include "core/problem.h"

typedef struct mfai_quantize {
    mfai_view_t input, codes;
    mfai_quantization_t quantization; /* its tensors are written */
    bool is_static;                   /* they are read instead */
    bool saturates;                   /* elements that are not finite are not refused */
    bool checks_only;                 /* everything that could be refused is, and nothing is written */
} mfai_quantize_t;

/* Checks `desc` against every rule that does not depend on the input's elements. */
mfa_status_t mfai_quantize_import(mfa_context_t context, const mfa_quantize_desc_t *desc, mfai_quantize_t *call);

/* Runs it on the CPU, whatever the context's backend. */
mfa_status_t mfai_quantize_run(mfa_context_t context, const mfai_quantize_t *call);

#endif

/* Structs that carry their size: copied in and out so that library and caller may differ in version. */
#ifndef MFA_CORE_VERSIONED_H
#define MFA_CORE_VERSIONED_H

#include <stddef.h>

#include "core/status.h"

/* What the first release of each struct had: up to the member that was its last then. Frozen; a member added later is
   not here. */
#define MFAI_UP_TO(type, member) (offsetof(type, member) + sizeof((type){0}.member))
enum {
    MFAI_CONTEXT_OPTIONS_FIRST_SIZE = MFAI_UP_TO(mfa_context_options_t, flags),
    MFAI_CONTEXT_INFO_FIRST_SIZE = MFAI_UP_TO(mfa_context_info_t, device_name),
    MFAI_TENSOR_FIRST_SIZE = MFAI_UP_TO(mfa_tensor_t, stride),
    MFAI_ATTENTION_DESC_FIRST_SIZE = MFAI_UP_TO(mfa_attention_desc_t, window_right),
    MFAI_BACKWARD_DESC_FIRST_SIZE = MFAI_UP_TO(mfa_attention_backward_desc_t, dsinks),
    MFAI_PLAN_FIRST_SIZE = MFAI_UP_TO(mfa_plan_t, reason),
    MFAI_SEQUENCES_FIRST_SIZE = MFAI_UP_TO(mfa_sequences_t, most_keys),
    MFAI_PAGES_FIRST_SIZE = MFAI_UP_TO(mfa_pages_t, page_table),
    MFAI_BLOCKS_FIRST_SIZE = MFAI_UP_TO(mfa_blocks_t, mask_indices),
    MFAI_APPEND_FIRST_SIZE = MFAI_UP_TO(mfa_append_t, rotary_positions),
    MFAI_SCALES_FIRST_SIZE = MFAI_UP_TO(mfa_scales_t, value),
    MFAI_QUANTIZATION_FIRST_SIZE = MFAI_UP_TO(mfa_quantization_t, mean),
    MFAI_QUANTIZE_DESC_FIRST_SIZE = MFAI_UP_TO(mfa_quantize_desc_t, quantization)
};

/*
 * Copies the caller's struct over `known`, which holds the defaults. A caller's struct that is larger than ours
 * is accepted only if what we do not know is zero.
 * @param least  MFAI_..._FIRST_SIZE
 */
mfa_status_t mfai_struct_import(const char *name, const void *caller, size_t least, size_t size, void *known);

/* Copies as much of `known` as the caller has room for; the caller's struct_size stays. */
mfa_status_t mfai_struct_export(const char *name, void *caller, size_t least, size_t size, const void *known);

#endif

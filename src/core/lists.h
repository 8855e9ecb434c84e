/* INT32 lists of the caller's, where the CPU can read them. */
#ifndef MFA_CORE_LISTS_H
#define MFA_CORE_LISTS_H

#include <inttypes.h>

#include "core/tensor.h"

static inline int32_t mfai_list_at(const mfai_view_t *list, int64_t b, int64_t h, int64_t i, int64_t j) {
    const int64_t *stride = list->stride;
    return ((const int32_t *)list->data)[b * stride[0] + h * stride[1] + i * stride[2] + j * stride[3]];
}

/* Of a list with one entry a sequence. */
static inline int32_t mfai_list_entry(const mfai_view_t *list, int64_t i) { return mfai_list_at(list, 0, 0, 0, i); }

/* Entry i of a list of lengths, 0 to `most`, which is what `whose` has; as it was if there is no list. */
mfa_status_t mfai_list_read(const char *name, const mfai_view_t *list, int64_t i, int64_t most, const char *whose,
                            int64_t *length);

/* Checks that they ascend from 0 to at most `rows`. */
mfa_status_t mfai_list_check_starts(const char *name, const mfai_view_t *starts, int64_t rows);

/* Rows of one sequence: as starts have it, or all that an operand has of a batch. */
static inline int64_t mfai_list_rows(const mfai_view_t *starts, int64_t i, int64_t rows) {
    return starts->present ? (int64_t)mfai_list_entry(starts, i + 1) - mfai_list_entry(starts, i) : rows;
}

/* Where its first row lies. */
static inline mfai_place_t mfai_list_place(const mfai_view_t *starts, int64_t i) {
    return starts->present ? (mfai_place_t){0, mfai_list_entry(starts, i)} : (mfai_place_t){i, 0};
}

#endif

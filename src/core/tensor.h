/* One operand, checked: what the rest of the library sees of an mfa_tensor_t. */
#ifndef MFA_CORE_TENSOR_H
#define MFA_CORE_TENSOR_H

#include "core/status.h"

typedef struct mfai_view {
    bool present;
    int32_t precision;
    char *data;          /* address of element 0, 0, 0, 0; may be NULL if the view is empty */
    mfa_buffer_t buffer; /* where data lies, or NULL for memory of the caller's */
    int64_t shape[4];
    int64_t stride[4]; /* in elements; 0 where a size of 1 is broadcast */
} mfai_view_t;

/* Tells the address of memory that only a device can reach from those of the process, which has none in this half. Such addresses
   serve for comparing views, and are never followed. */
#define MFAI_DEVICE_ADDRESS (UINTPTR_MAX / 2 + 1)

#define MFAI_PRECISION_BIT(precision) (1u << (precision))
#define MFAI_FLOATING                                                                  \
    (MFAI_PRECISION_BIT(MFA_PRECISION_FP16) | MFAI_PRECISION_BIT(MFA_PRECISION_BF16) | \
     MFAI_PRECISION_BIT(MFA_PRECISION_FP32))

/* Bytes an element takes; only for precisions of whole bytes. */
static inline int64_t mfai_precision_size(int32_t precision) {
    switch (precision) {
    case MFA_PRECISION_FP32:
        return 4;
    case MFA_PRECISION_FP16:
    case MFA_PRECISION_BF16:
        return 2;
    default:
        return 1;
    }
}

const char *mfai_precision_name(int32_t precision);

/*
 * Checks `tensor` (which may come from an older header) and describes it in `view`. A NULL tensor gives a view that
 * is not present.
 * @param name        of the argument, for messages
 * @param context     whose buffers it may use
 * @param precisions  allowed ones, as MFAI_PRECISION_BITs
 */
mfa_status_t mfai_view_import(const char *name, mfa_context_t context, const mfa_tensor_t *tensor, unsigned precisions,
                              mfai_view_t *view);

/* Checks that the view has this shape; where `broadcast`, a size of 1 is stretched with stride 0. */
mfa_status_t mfai_view_expect(const char *name, mfai_view_t *view, const int64_t shape[4], bool broadcast);

/* Checks that each element of an output has an address of its own. */
mfa_status_t mfai_view_expect_injective(const char *name, const mfai_view_t *view);

bool mfai_view_is_empty(const mfai_view_t *view);

/* Lowest byte offset of an element from element 0, 0, 0, 0, and one past the highest. False if any of that leaves 63 bits;
   after mfai_view_import it does not. */
bool mfai_view_extent(const mfai_view_t *view, int64_t *lowest, int64_t *end);

/* Whether it lies in memory that only a device can reach. */
bool mfai_view_is_on_device(const mfai_view_t *view);

static inline bool mfai_rows_are_contiguous(const mfai_view_t *view) {
    return view->stride[3] == 1 || view->shape[3] == 1;
}

#endif

/* One operand, checked: what the rest of the library sees of an mfa_tensor_t. */
#ifndef MFA_CORE_TENSOR_H
#define MFA_CORE_TENSOR_H

#include "core/arithmetic.h"
#include "core/format.h"
#include "core/status.h"

/* Where the first row of a sequence lies. */
typedef struct mfai_place {
    int64_t batch, row;
} mfai_place_t;

/* How the rows of sequences lie in an operand of one side, queries or keys. */
typedef struct mfai_layout {
    const mfai_place_t *places; /* of each sequence; NULL: batch b, row 0 */
    const int32_t *pages;       /* row r lies in batch pages[b * page_sequence + r / page_rows * page_entry], at row
                                   r % page_rows; NULL: where the first row does, behind it */
    int64_t page_sequence, page_entry, page_rows;
} mfai_layout_t;

typedef struct mfai_view {
    bool present;
    int32_t format;      /* MFAI_FORMAT_... */
    char *data;          /* address of element 0, 0, 0, 0; may be NULL if the view is empty */
    mfa_buffer_t buffer; /* where data lies, or NULL for memory of the caller's */
    int64_t shape[4];
    int64_t stride[4];           /* in elements; 0 along axes of size 1 */
    const mfai_layout_t *layout; /* NULL: sequence b is batch b, from row 0 on */
} mfai_view_t;

/* Tells the address of memory that only a device can reach from those of the process, which has none in this half. Such
   addresses serve for comparing views, and are never followed. */
#define MFAI_DEVICE_ADDRESS (UINTPTR_MAX / 2 + 1)

/*
 * Checks `tensor` (which may come from an older header) and describes it in `view`. A NULL tensor gives a view that
 * is not present.
 * @param name        of the argument, for messages
 * @param context     whose buffers it may use
 * @param formats  allowed ones, a sum of MFAI_FORMAT_BITs
 */
mfa_status_t mfai_view_import(const char *name, mfa_context_t context, const mfa_tensor_t *tensor, unsigned formats,
                              mfai_view_t *view);

/* Checks that the view has this shape, or 1 along the axes whose bits are set in `may_be_one`. */
mfa_status_t mfai_view_expect(const char *name, const mfai_view_t *view, const int64_t shape[4], unsigned may_be_one);

/* Checks that each element of an output has an address of its own. */
mfa_status_t mfai_view_expect_injective(const char *name, const mfai_view_t *view);

bool mfai_view_is_empty(const mfai_view_t *view);

/* Lowest byte offset of an element from element 0, 0, 0, 0, and one past the highest. False if any of that leaves 63
   bits; after mfai_view_import it does not. */
bool mfai_view_extent(const mfai_view_t *view, int64_t *lowest, int64_t *end);

/* Whether it lies in memory that only a device can reach. */
bool mfai_view_is_on_device(const mfai_view_t *view);

/* Bytes of one element, of a format of whole bytes. */
static inline int64_t mfai_view_element(const mfai_view_t *view) { return mfai_formats[view->format].bits / 8; }

static inline bool mfai_view_has_codes(const mfai_view_t *view) {
    return MFAI_CODES >> view->format & 1 && view->present;
}

/* Bytes from an element to the one that is so many on, both at the beginning of a byte. */
static inline int64_t mfai_view_offset(const mfai_view_t *view, int64_t elements) {
    return mfai_formats[view->format].bits == 4 ? elements / 2 : elements * mfai_view_element(view);
}

/* Bytes of a row whose elements lie side by side. */
static inline int64_t mfai_view_row_bytes(const mfai_view_t *view) {
    return mfai_format_bytes(view->format, view->shape[3]);
}

/* The same memory as elements of whole bytes. */
mfai_view_t mfai_view_as_bytes(const mfai_view_t *view);

/* Where row `row` of sequence b lies. */
static inline mfai_place_t mfai_layout_place(const mfai_layout_t *layout, int64_t b, int64_t row) {
    mfai_place_t at = {b, row};
    if (layout->places != NULL)
        at = (mfai_place_t){layout->places[b].batch, layout->places[b].row + row};
    if (layout->pages != NULL)
        at = (mfai_place_t){layout->pages[b * layout->page_sequence + at.row / layout->page_rows * layout->page_entry],
                            at.row % layout->page_rows};
    return at;
}

static inline bool mfai_rows_are_contiguous(const mfai_view_t *view) {
    return view->stride[3] == 1 || view->shape[3] == 1;
}

#endif

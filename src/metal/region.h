/* What the system knows of an address range. */
#ifndef MFA_METAL_REGION_H
#define MFA_METAL_REGION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of memory that a GPU maps; never less than the processor's. */
enum { MFAI_METAL_PAGE = 16384 };

/* Whole pages around a range. */
typedef struct {
    uintptr_t start;
    size_t length;
} mfai_metal_pages_t;

static inline mfai_metal_pages_t mfai_metal_pages_around(const void *data, size_t size) {
    const uintptr_t start = (uintptr_t)data / MFAI_METAL_PAGE * MFAI_METAL_PAGE;
    const uintptr_t end = ((uintptr_t)data + size + MFAI_METAL_PAGE - 1) / MFAI_METAL_PAGE * MFAI_METAL_PAGE;
    return (mfai_metal_pages_t){start, end - start};
}

/* Whether the pages lie in one region of the process that may be read and written: only then does Metal wrap them. */
bool mfai_metal_is_one_region(mfai_metal_pages_t pages);

#endif

/* One operand of a call, where the device can reach it: the caller's memory itself, or a copy. */
#ifndef MFA_METAL_OPERAND_H
#define MFA_METAL_OPERAND_H

#import "metal/device.h"

typedef enum { MFAI_METAL_READ, MFAI_METAL_WRITE, MFAI_METAL_UPDATE } mfai_metal_access_t;

typedef struct {
    id<MTLBuffer> buffer; /* retained; nil: the operand is absent or empty */
    NSUInteger offset;    /* of element 0, 0, 0, 0 in the buffer */
    int64_t stride[4];    /* in elements: the operand's, or those of the copy */
    mfai_view_t origin;   /* the operand as the caller has it */
    bool copied, read, written;
} mfai_metal_operand_t;

/*
 * Finds, wraps or copies.
 * @param encoded  for a call that runs later: only buffers that need no copy will do, all else is MFA_ERROR_UNSUPPORTED
 * On failure there is nothing to close.
 */
mfa_status_t mfai_metal_operand_open(mfai_metal_device_t *device, const char *name, const mfai_view_t *view,
                                     mfai_metal_access_t access, bool encoded, mfai_metal_operand_t *operand);

/* After the call has succeeded: brings what was written to a copy to where it belongs. */
void mfai_metal_operand_finish(const mfai_metal_operand_t *operand);

void mfai_metal_operand_close(mfai_metal_operand_t *operand);

#endif

/*
 * One attention call as the device runs it: operands, scratch memory and the dispatches over them, in order.
 *
 * forward.m and backward.m say what a call consists of, from the problem alone; running it is the same for all.
 */
#ifndef MFA_METAL_CALL_H
#define MFA_METAL_CALL_H

#include "core/operands.h"
#import "metal/device.h"
#import "metal/operand.h"
#include "mfa_params.h"

enum { MFAI_METAL_SCRATCHES = 4, MFAI_METAL_DISPATCHES = 12 };

/* Kernels by the operands that they are given, which share the numbers of buffers with those of others. */
enum {
    MFAI_METAL_ATTENDS = 1,
    MFAI_METAL_LISTS_BLOCKS = 2,
    MFAI_METAL_APPENDS = 4, /* or rotates, or rounds queries */
    MFAI_METAL_PREPARES = 8,
    MFAI_METAL_ADDS_SINKS = 16
};

typedef struct {
    mfai_metal_kernel_t kernel;
    int rows, keys;                               /* of its tiles; 0: it has none */
    int64_t query_tiles, key_tiles, value_blocks; /* in the params */
    unsigned threads;                             /* of a threadgroup */
    uint64_t threadgroups;                        /* 0: nothing to do */
    uint64_t work;                                /* multiplications that a threadgroup does, about */
    const mfai_view_t *filled;                    /* the one operand of a fill; NULL: it is none */
    bool waits;                                   /* for what the dispatches before it wrote */
    unsigned kind;                                /* MFAI_METAL_ATTENDS and so on */
} mfai_metal_dispatch_t;

typedef struct {
    unsigned index; /* MFA_BUFFER_... */
    const char *name;
    const mfai_view_t *view;
    mfai_metal_access_t access;
    mfa_metal_strides *strides; /* in the params */
    bool has_rows;              /* MFA_CONSTANT_VECTORS speaks of it */
    unsigned kinds;             /* of dispatches that it is bound for */
} mfai_metal_operand_use_t;

typedef struct {
    unsigned index;
    uint64_t bytes;
} mfai_metal_scratch_t;

typedef struct {
    mfa_metal_params params;
    char kernels[64]; /* in the plan */
    int operand_count, scratch_count, dispatch_count;
    mfai_metal_operand_use_t operands[MFAI_OPERANDS];
    mfai_metal_scratch_t scratches[MFAI_METAL_SCRATCHES];
    mfai_metal_dispatch_t dispatches[MFAI_METAL_DISPATCHES];
} mfai_metal_call_t;

/* A dispatch to fill in, whose kernel is still without macros and constants. `name` is its source's, and its function's
   after "attention_". */
mfa_status_t mfai_metal_call_add_dispatch(mfai_metal_call_t *call, const char *name, mfai_metal_dispatch_t **added);

/* Scratch memory of the call's own at a buffer index. */
mfa_status_t mfai_metal_call_add_scratch(mfai_metal_call_t *call, unsigned index, uint64_t bytes);

/* Fills in the plan; tiles are those of the first dispatch that has any. */
void mfai_metal_call_describe(const mfai_metal_device_t *device, const mfai_metal_call_t *call, mfa_plan_t *plan);

/* Runs the call and waits for it. */
mfa_status_t mfai_metal_call_run(mfai_metal_device_t *device, mfai_metal_call_t *call, double *seconds);

/* Encodes the call into what the caller gave. */
mfa_status_t mfai_metal_call_encode(mfai_metal_device_t *device, mfai_metal_call_t *call, void *target);

#endif

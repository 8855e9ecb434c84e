/* What tests ask of the emulated device beyond Metal's own API. Callable from any thread. */
#ifndef METAL_EMULATOR_CONTROL_H
#define METAL_EMULATOR_CONTROL_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ calls that can fail */

/* Every call that Metal allows to fail, in the order made. Run once, count, then run again with each failing in
   turn. */
typedef enum {
    EMU_CALL_DEVICE,         /* MTLCreateSystemDefaultDevice: nil */
    EMU_CALL_QUEUE,          /* newCommandQueue: nil */
    EMU_CALL_BUFFER,         /* newBuffer...: nil */
    EMU_CALL_LIBRARY,        /* newLibraryWithSource: nil and an error */
    EMU_CALL_FUNCTION,       /* newFunctionWithName: nil, and an error where there is one */
    EMU_CALL_PIPELINE,       /* newComputePipelineState...: nil and an error */
    EMU_CALL_COMMAND_BUFFER, /* commandBuffer: nil */
    EMU_CALL_ENCODER,        /* computeCommandEncoder: nil */
    EMU_CALL_EXECUTION,      /* commit: nothing runs, status Error */
    EMU_CALL_KINDS
} emu_call_kind;

const char *emu_call_kind_name(emu_call_kind kind); /* "device", "queue", ... */

/* Forgets the calls made, and fails none. METAL_EMULATOR_FAIL is read again at the next call. */
void emu_calls_reset(void);
size_t emu_calls_count(void);
emu_call_kind emu_calls_kind(size_t number); /* counted from 1 */

/* Fails the number-th call since the reset: 1 is the first. 0 fails none. */
void emu_calls_fail(size_t number);
void emu_calls_fail_kind(emu_call_kind kind, size_t number);

/* ------------------------------------------------------------------ objects */

/* How many objects of a Metal class or protocol ("MTLBuffer") exist; NULL: all. Waits for the device to be idle, so
   that what only a running command buffer holds is not counted. */
size_t emu_live_count(const char *metal_name);

/* ------------------------------------------------------------------ environment */
/* METAL_EMULATOR_GPU      apple7 (default), apple8, apple9, apple10, paravirtual (no simdgroup_matrix)
   METAL_EMULATOR_MACOS    14 or 15 (default): before 15, MTLCompileOptions has no mathMode
   METAL_EMULATOR_MAX_BUFFER_LENGTH, METAL_EMULATOR_MAX_THREADS (of a pipeline), METAL_EMULATOR_WORKING_SET: lower limits
   METAL_EMULATOR_MODE     fast (default), checked: what kernels are compiled for
   METAL_EMULATOR_FILL     zero (default), unwritten: what new buffers hold
   METAL_EMULATOR_ORDER    fifo (default), reverse, lifo, random: of threads, and of dispatches that Metal leaves unordered
   METAL_EMULATOR_SEED     for random, and for METAL_EMULATOR_FAST_ULPS, by which fast:: functions may be off
   METAL_EMULATOR_FAIL     N or KIND:N, the call to fail
   METAL_EMULATOR_CALLS    file to which the kind of every call that can fail is appended
   METAL_EMULATOR_LOG      file to which misuse, faults and injected failures are appended
   METAL_EMULATOR_COUNTERS file to which every dispatch appends what it did: a line of JSON with its kernel, its size and the
                           counters of emulator.h, of which METAL_EMULATOR_MODE=checked alone counts bytes */

#ifdef __cplusplus
}
#endif

#endif

/* The GPUs that the emulator can pretend to be. */
#ifndef METAL_EMULATOR_GPU_H
#define METAL_EMULATOR_GPU_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *key;  /* for METAL_EMULATOR_GPU */
    const char *name; /* as MTLDevice reports it */
    long apple;       /* the highest MTLGPUFamilyApple; 0: none */
    bool metal3, simdgroup_matrix;
    uint64_t working_set, max_buffer_length;
} emu_gpu;

const emu_gpu *emu_gpu_selected(void);

#endif

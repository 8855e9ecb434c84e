/* What a dispatch did, as a line of METAL_EMULATOR_COUNTERS. */
#ifndef METAL_EMULATOR_DISPATCH_COUNTERS_H
#define METAL_EMULATOR_DISPATCH_COUNTERS_H

#include <stdint.h>

#include "emulator.h"

typedef struct {
    const char *kernel;
    uint64_t threadgroups, threads, threadgroup_memory;
} emu_dispatch_size;

/* As emu_run; what the launch counts is appended to the file, if the variable is set and the launch goes well. */
bool emu_run_counted(const emu_pipeline *pipeline, const emu_launch *launch, const emu_dispatch_size *size,
                     emu_fault *fault);

#endif

#ifndef METAL_EMULATOR_RUNTIME_PIPELINE_H
#define METAL_EMULATOR_RUNTIME_PIPELINE_H

#include "emulator.h"
#include "module.h"

struct emu_pipeline {
    emui_module module;
    emu_kernel kernel;
    emu_argument *arguments;
    uint32_t max_threads, static_threadgroup_memory;
};

#endif

#include <stdatomic.h>
#include <string.h>

#include "control.h"
#include "live.h"
#include "scheduler.h"

static const char *const names[EMU_LIVE_KINDS] = {
    [EMU_LIVE_DEVICE] = "MTLDevice",
    [EMU_LIVE_QUEUE] = "MTLCommandQueue",
    [EMU_LIVE_BUFFER] = "MTLBuffer",
    [EMU_LIVE_LIBRARY] = "MTLLibrary",
    [EMU_LIVE_FUNCTION] = "MTLFunction",
    [EMU_LIVE_PIPELINE] = "MTLComputePipelineState",
    [EMU_LIVE_COMMAND_BUFFER] = "MTLCommandBuffer",
    [EMU_LIVE_COMPUTE_ENCODER] = "MTLComputeCommandEncoder",
    [EMU_LIVE_COMPILE_OPTIONS] = "MTLCompileOptions",
    [EMU_LIVE_FUNCTION_CONSTANT_VALUES] = "MTLFunctionConstantValues",
    [EMU_LIVE_PIPELINE_DESCRIPTOR] = "MTLComputePipelineDescriptor",
    [EMU_LIVE_COMMAND_BUFFER_DESCRIPTOR] = "MTLCommandBufferDescriptor",
};

static atomic_size_t counts[EMU_LIVE_KINDS];

void emu_live_born(emu_live_kind kind) { atomic_fetch_add(&counts[kind], 1); }
void emu_live_died(emu_live_kind kind) { atomic_fetch_sub(&counts[kind], 1); }

size_t emu_live_count(const char *metal_name) {
    emu_scheduler_wait_until_idle();
    size_t total = 0;
    for (size_t i = 0; i < EMU_LIVE_KINDS; ++i) {
        if (!metal_name || strcmp(metal_name, names[i]) == 0)
            total += atomic_load(&counts[i]);
    }
    return total;
}

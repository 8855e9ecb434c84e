/* Counts of the Metal objects that exist. */
#ifndef METAL_EMULATOR_LIVE_H
#define METAL_EMULATOR_LIVE_H

typedef enum {
    EMU_LIVE_DEVICE,
    EMU_LIVE_QUEUE,
    EMU_LIVE_BUFFER,
    EMU_LIVE_LIBRARY,
    EMU_LIVE_FUNCTION,
    EMU_LIVE_PIPELINE,
    EMU_LIVE_COMMAND_BUFFER,
    EMU_LIVE_COMPUTE_ENCODER,
    EMU_LIVE_COMPILE_OPTIONS,
    EMU_LIVE_FUNCTION_CONSTANT_VALUES,
    EMU_LIVE_PIPELINE_DESCRIPTOR,
    EMU_LIVE_COMMAND_BUFFER_DESCRIPTOR,
    EMU_LIVE_KINDS
} emu_live_kind;

void emu_live_born(emu_live_kind kind);
void emu_live_died(emu_live_kind kind);

#endif

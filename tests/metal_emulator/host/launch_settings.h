#ifndef METAL_EMULATOR_LAUNCH_SETTINGS_H
#define METAL_EMULATOR_LAUNCH_SETTINGS_H

#include "emulator.h"

/* METAL_EMULATOR_ORDER, METAL_EMULATOR_SEED, METAL_EMULATOR_FAST_ULPS. */
emu_order emu_launch_settings_order(void);
uint64_t emu_launch_settings_seed(void);
void emu_launch_settings_apply(emu_launch *launch);

#endif

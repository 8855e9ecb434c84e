// The launch that runs now.
#ifndef METAL_EMULATOR_LAUNCH_H
#define METAL_EMULATOR_LAUNCH_H

#include "emulator.h"
#include "module.h"

#include <pthread.h>

void emui_launch_lock(void);
void emui_launch_unlock(void);

extern const char *emui_launch_kernel;
extern emui_module emui_launch_module;
extern uint32_t emui_launch_position[3]; // of the threadgroup
extern uint64_t emui_launch_seed, emui_launch_random;
extern uint32_t emui_launch_ulps;
extern bool emui_launch_allows_stale;
extern uint64_t emui_launch_arguments[EMU_SLOT_COUNT];

#endif

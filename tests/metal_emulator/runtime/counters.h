#ifndef METAL_EMULATOR_COUNTERS_H
#define METAL_EMULATOR_COUNTERS_H

#include "emulator.h"

extern emu_counters emui_counters; // guarded by the launch lock

#endif

// Traps of kernels (a guard page, a division by zero) become faults.
#ifndef METAL_EMULATOR_SIGNALS_H
#define METAL_EMULATOR_SIGNALS_H

#include <stdbool.h>

// Around every launch, on its thread. False: the system refuses.
bool emui_signals_begin(void);
void emui_signals_end(void);

#endif

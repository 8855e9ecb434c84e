/* Where every call that can fail asks whether it is the one to fail now. */
#ifndef METAL_EMULATOR_CALLS_H
#define METAL_EMULATOR_CALLS_H

#include <stdbool.h>

#include "control.h"

#define EMU_INJECTED "failure injected by the emulator"

/* Notes the call, and says whether it has to fail. */
bool emu_calls_fails(emu_call_kind kind);

#endif

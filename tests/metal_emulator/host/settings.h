/* The METAL_EMULATOR_ variables that concern the host; control.h lists them. Read at each use. */
#ifndef METAL_EMULATOR_SETTINGS_H
#define METAL_EMULATOR_SETTINGS_H

#include <stddef.h>
#include <stdint.h>

/* The position of the variable's value in `names`; 0 if the variable is not set. Another value raises an exception. */
size_t emu_setting_choice(const char *variable, const char *const *names, size_t count);

/* The variable as a number, or `otherwise` if it is not set. */
uint64_t emu_setting_number(const char *variable, uint64_t otherwise);

#endif

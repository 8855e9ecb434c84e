#ifndef METAL_EMULATOR_LOG_H
#define METAL_EMULATOR_LOG_H

/* Appends one line to the file that `variable` names, if it is set. */
void emu_log_to(const char *variable, const char *line);

/* METAL_EMULATOR_LOG: misuse, faults, injected failures. */
static inline void emu_log(const char *line) { emu_log_to("METAL_EMULATOR_LOG", line); }

#endif

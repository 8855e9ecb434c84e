// The one fault of a launch.
#ifndef METAL_EMULATOR_FAULT_H
#define METAL_EMULATOR_FAULT_H

#include "emulator.h"

void emui_fault_clear(void);
bool emui_fault_raised(void);
const emu_fault *emui_fault_get(void);

// Notes a fault without leaving; the first one stays. The text gets kind, kernel and threadgroup in front.
void emui_fault_note(emu_fault_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Notes it and ends the threadgroup, if a thread of it runs; else returns.
void emui_fault_raise(emu_fault_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Where in the user's source an address of the running kernel's code comes from: "file:line".
const char *emui_fault_source_line(const void *code, char *text, size_t size);

#endif

#ifndef METAL_EMULATOR_MAPPED_H
#define METAL_EMULATOR_MAPPED_H

#include <stdbool.h>
#include <stddef.h>

/* Whether all of [start, start + length) is readable memory of this process. */
bool emu_is_mapped(const void *start, size_t length);

#endif

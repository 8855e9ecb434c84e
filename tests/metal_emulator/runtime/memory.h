// Device memory that the emulator allocated, and the pattern of what nobody wrote.
#ifndef METAL_EMULATOR_MEMORY_H
#define METAL_EMULATOR_MEMORY_H

#include "emulator.h"

// An allocation as a launch sees it; start is NULL for memory that the emulator did not allocate.
typedef struct {
    const char *first, *start, *end; // first .. start is slack
    emu_fill fill;
} emui_allocation;

emui_allocation emui_memory_find(const void *address);

// The first byte among address .. address + size that nobody wrote since its allocation, or NULL.
const void *emui_memory_unwritten(const emui_allocation *in, const void *address, size_t size);

// False: somebody wrote to the slack around it.
bool emui_memory_slack_intact(const emui_allocation *around);

// Extents inside start .. start + length, at most `limit` of them, in no order. Returns their number.
typedef struct {
    uintptr_t start, end;
} emui_extent;
size_t emui_memory_extents(const void *start, size_t length, emui_extent *extents, size_t limit);

#endif

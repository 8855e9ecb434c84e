// The memory that a launch may touch.
#ifndef METAL_EMULATOR_REGION_H
#define METAL_EMULATOR_REGION_H

#include "memory.h"

#include <stdint.h>

typedef enum { EMUI_REGION_BUFFER, EMUI_REGION_BYTES, EMUI_REGION_THREADGROUP } emui_region_kind;

typedef struct {
    uintptr_t start, end;
    emui_region_kind kind;
    const char *name; // of the argument or the threadgroup variable
    uint32_t index;
    bool has_index;   // false for a threadgroup variable
    bool is_constant; // bound to a `constant` argument
    uintptr_t origin; // what offsets count from
    emui_allocation allocation;
} emui_region;

// Forgets all; arguments that are not bound point to unbound .. unbound + unbound_size.
void emui_region_begin(const void *unbound, size_t unbound_size);
// False: there are too many.
bool emui_region_add(const emui_region *region);

// The region that holds all of address .. address + size, or NULL.
const emui_region *emui_region_find(uintptr_t address, size_t size);

// "buffer 1 'out' at offset 64, 4 bytes past its end (of 60)": for an address outside regions, by the nearest.
void emui_region_describe(uintptr_t address, size_t size, char *text, size_t text_size);

#endif

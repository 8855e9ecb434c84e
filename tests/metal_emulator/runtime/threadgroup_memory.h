// Threadgroup memory: static variables and dynamic arguments, laid out with redzones between them.
#ifndef METAL_EMULATOR_THREADGROUP_MEMORY_H
#define METAL_EMULATOR_THREADGROUP_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EMUI_THREADGROUP_ARENA = 1 << 20 };

// False: no memory.
bool emui_threadgroup_memory_begin(void);
// Room for a variable of this launch. 0: too many variables.
uintptr_t emui_threadgroup_memory_place(size_t size);
// Makes all of it NaN and unwritten, for the next threadgroup.
void emui_threadgroup_memory_poison(void);
// A changed byte in a redzone, or 0.
uintptr_t emui_threadgroup_memory_overrun(void);

uintptr_t emui_threadgroup_memory_base(void);

#endif

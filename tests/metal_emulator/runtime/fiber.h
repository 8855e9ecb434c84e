// Stacks and switching between them, for x86-64.
#ifndef METAL_EMULATOR_FIBER_H
#define METAL_EMULATOR_FIBER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    void *stack_pointer; // while it does not run
} emui_fiber;

// Stacks for so many fibers exist from then on. False: no memory.
bool emui_fiber_reserve(size_t count);
// Sets fiber `number` up to begin with main(), which must not return.
void emui_fiber_prepare(emui_fiber *fiber, size_t number, void (*main)(void));
void emui_fiber_switch(emui_fiber *from, const emui_fiber *to);

bool emui_fiber_is_stack(const void *address);
bool emui_fiber_is_stack_end(const void *address); // the page that an overflowing stack hits

#endif
